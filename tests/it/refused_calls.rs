//! The answers to refused calls wait on a connection with many of them, and nothing else does.

use std::time::Duration;

use axum::body::Body;
use billing_service::service::proto::{
    CheckQuotaReply, CheckQuotaRequest, MeterStreamRequest, ReserveQuotaRequest,
    billing_internal_service_client::BillingInternalServiceClient, meter_stream_request::Event,
};
use futures_util::{FutureExt, StreamExt, stream};
use http::header::CONNECTION;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rstest::rstest;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{Code, Request, Status, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::{
    access::sha256,
    bounds::begin_with,
    harness::{
        Database, Service, Sqlite, code_of,
        wait::{soon, until},
    },
};

const TOKEN: &str = "the-token-of-the-edge";
/// The first refused call is answered at once.
const LIMITS: &str = "{refused_calls: 1, requests_per_caller: 1}";
/// A later answer comes after the end of the test.
const PAUSE: Duration = Duration::from_secs(600);

async fn start(changes: &[(&str, &str)]) -> Service {
    let callers = format!("[{{name: edge, roles: [gateway], token_sha256: ['{}']}}]", sha256(TOKEN));
    let mut all = vec![("server.limits", LIMITS), ("server.grpc.auth.callers", &callers)];
    all.extend(changes);
    let database = Database::create(Sqlite).await;
    let mut config = database.config(&all);
    config.server.limits.refusal_pause = PAUSE;
    Service::start_configured(database, config).await
}

fn with_token<M>(message: M, token: &str) -> Request<M> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

async fn check(
    mut client: BillingInternalServiceClient<Channel>,
    token: &'static str,
) -> Result<CheckQuotaReply, Status> {
    let check = CheckQuotaRequest { user_id: "u".into(), service_name: "asset".into(), count: 1, ..Default::default() };
    client.check_quota(with_token(check, token)).await.map(tonic::Response::into_inner)
}

/// Whether `refused` waits while `other` calls of the same connection are answered.
async fn waits_alone<T>(refused: impl Future<Output = T>, other: impl AsyncFn()) -> bool {
    let mut refused = Box::pin(refused);
    // Each answer gives the refusal, which was sent before, a further chance.
    for _ in 0..20 {
        if (&mut refused).now_or_never().is_some() {
            return false;
        }
        other().await;
    }
    refused.now_or_never().is_none()
}

#[tokio::test]
async fn a_refusal_for_want_of_a_proof_waits_and_other_calls_of_its_connection_do_not() {
    let service = start(&[]).await;
    let refused = check(service.internal.clone(), "wrong").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let admitted = async || drop(check(service.internal.clone(), TOKEN).await.unwrap());
    assert!(waits_alone(check(service.internal.clone(), "wrong"), admitted).await);
    // Another connection has refused calls of its own.
    let url = format!("http://{}/internal/v1/billing/check", service.app.grpc_addr);
    assert_eq!(service.http.post(url).bearer_auth("wrong").send().await.unwrap().status(), 401);
}

#[tokio::test]
async fn a_refusal_for_want_of_a_permit_waits_and_health_on_its_connection_does_not() {
    let service = start(&[]).await;
    let channel = Channel::from_shared(format!("http://{}", service.app.grpc_addr)).unwrap().connect().await.unwrap();
    let proof = format!("authorization: Bearer {TOKEN}\r\n");
    let _unfinished = begin_with(service.app.grpc_addr, "/internal/v1/billing/check", &proof, 1_000, 10).await;
    let client = BillingInternalServiceClient::new(channel.clone());
    until("its permit is taken", async || {
        check(client.clone(), TOKEN).await.is_err_and(|status| code_of(&status).1 == "10014")
    })
    .await;
    let health = async || drop(HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await.unwrap());
    assert!(waits_alone(check(client.clone(), TOKEN), health).await);
}

#[tokio::test]
async fn a_refused_stream_waits_and_other_calls_of_its_connection_do_not() {
    let service = start(&[]).await;
    let begin = || {
        let mut client = service.internal.clone();
        async move { client.meter_stream(with_token(stream::pending(), TOKEN)).await.unwrap().into_inner() }
    };
    // A stream without an open has the only place for two seconds.
    let mut open = vec![begin().await];
    until("a second one is refused", async || {
        let refused = soon(begin()).await.message().await.unwrap_err();
        let is_refused = code_of(&refused).1 == "10014";
        if !is_refused {
            open.push(begin().await);
        }
        is_refused
    })
    .await;
    let admitted = async || drop(check(service.internal.clone(), TOKEN).await.unwrap());
    assert!(waits_alone(begin(), admitted).await);
    drop(open);
}

#[rstest]
#[tokio::test]
async fn a_stream_beyond_those_that_may_be_open_waits(
    #[values("server.limits.streams", "server.limits.streams_per_caller")] limit: &str,
) {
    let service = start(&[(limit, "1")]).await;
    let begin = |trace_id: &str| {
        let open = ReserveQuotaRequest {
            user_id: "u".into(),
            service_name: "asset".into(),
            count: 1,
            trace_id: trace_id.into(),
            ..Default::default()
        };
        let open = MeterStreamRequest { event: Some(Event::Open(open)) };
        let messages = stream::once(async { open }).chain(stream::pending());
        let mut client = service.internal.clone();
        async move { client.meter_stream(with_token(messages, TOKEN)).await.unwrap().into_inner() }
    };
    let mut first = begin("t-1").await;
    first.message().await.unwrap().expect("the stream is open");
    let refused = begin("t-2").await.message().await.unwrap_err();
    assert_eq!(code_of(&refused).1, "10014");
    assert!(refused.message().contains("are open"), "{}", refused.message());
    let admitted = async || drop(check(service.internal.clone(), TOKEN).await.unwrap());
    assert!(waits_alone(begin("t-3"), admitted).await);
}

/// The memory of bodies is that of all callers.
#[tokio::test]
async fn a_refusal_for_want_of_memory_waits() {
    let limits = "{refused_calls: 1, body_bytes: 20000, body_memory: 80000}";
    let service = start(&[("server.limits", limits)]).await;
    let large = || {
        let mut check = CheckQuotaRequest { user_id: "u".into(), ..Default::default() };
        check.service_name = "s".repeat(15_000);
        let mut client = service.internal.clone();
        async move { client.check_quota(with_token(check, TOKEN)).await.unwrap_err() }
    };
    assert_eq!(large().await.code(), Code::InvalidArgument, "there is memory");
    let batch = "/internal/v1/billing/deduct/batch";
    let proof = format!("authorization: Bearer {TOKEN}\r\n");
    let mut unfinished = Vec::new();
    for _ in 0..5 {
        unfinished.push(begin_with(service.app.grpc_addr, batch, &proof, 19_000, 18_000).await);
    }
    until("it is used up", async || code_of(&soon(large()).await).1 == "10014").await;
    let admitted = async || drop(check(service.internal.clone(), TOKEN).await.unwrap());
    assert!(waits_alone(large(), admitted).await);
}

/// The clients of a proxy share its connections to the public port. A caller of the internal port answers for its
/// connection itself.
#[tokio::test]
async fn refusals_do_not_wait_on_the_connection_of_a_trusted_proxy_to_the_public_port() {
    let changes = [("server.trusted_proxies", "[127.0.0.0/8]"), ("server.http.auth.mode", "gateway")];
    let service = start(&changes).await;
    let url = format!("http://{}{ACCOUNT}", service.app.http_addr);
    for _ in 0..3 {
        let refused = soon(service.http.get(&url).send()).await.unwrap();
        assert_eq!(refused.status(), 401);
        // The client keeps a connection whose reply was read.
        refused.text().await.unwrap();
    }
    let refused = soon(check(service.internal.clone(), "wrong")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let admitted = async || drop(check(service.internal.clone(), TOKEN).await.unwrap());
    assert!(waits_alone(check(service.internal.clone(), "wrong"), admitted).await);
}

const ACCOUNT: &str = "/api/v1/billing/account";

/// The gateway has proven itself, and its other users share its connection.
#[tokio::test]
async fn a_refusal_for_want_of_the_name_of_a_user_does_not_wait() {
    let service = start(&[("server.http.auth.mode", "gateway")]).await;
    let url = format!("http://{}{ACCOUNT}", service.app.http_addr);
    for _ in 0..3 {
        let refused = soon(service.http.get(&url).header("x-gateway-token", TOKEN).send()).await.unwrap();
        assert_eq!(refused.status(), 401);
        assert_eq!(refused.headers()["www-authenticate"], "Bearer");
        refused.text().await.unwrap();
    }
    let line = r#"billing_access_refused_total{caller="unknown",reason="identity"} 3"#;
    let scrape = service.metrics().await;
    assert!(scrape.contains(line), "{scrape}");
}

/// A call without a proof, over REST.
fn unproven() -> http::Request<Body> {
    let body = Body::from(r#"{"user_id":"u"}"#);
    http::Request::post("/internal/v1/billing/check").header("host", "b").body(body).unwrap()
}

#[tokio::test]
async fn a_connection_with_too_many_answers_that_wait_ends() {
    let changes =
        [("server.limits.held_refusals_per_connection", "1"), ("server.limits.metrics_interval", "0.000001s")];
    let service = start(&changes).await;
    let stream = TokioIo::new(TcpStream::connect(service.app.grpc_addr).await.unwrap());
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let uri = format!("http://{}/internal/v1/billing/check", service.app.grpc_addr);
    let mut call = || {
        let body = Body::from(r#"{"user_id":"u"}"#);
        sender.send_request(http::Request::post(&uri).body(body).unwrap())
    };
    assert_eq!(soon(call()).await.unwrap().status(), 401);
    // The end of the connection releases the answer that waits.
    let (held, beyond) = soon(futures_util::future::join(call(), call())).await;
    assert_eq!((held.unwrap().status(), beyond.unwrap().status()), (401.try_into().unwrap(), 401.try_into().unwrap()));
    soon(connection).await.unwrap().unwrap();
    let metrics = service.metrics().await;
    for line in [
        r#"billing_connections_ended_total{port="grpc",reason="refusals"} 1"#,
        r#"billing_held_refusals_total{port="grpc"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn a_connection_of_http1_ends_if_its_port_has_no_room_for_its_answer() {
    let service = start(&[("server.limits.held_refusals", "1")]).await;
    let _ = check(service.internal.clone(), "wrong").await.unwrap_err();
    let admitted = async || drop(check(service.internal.clone(), TOKEN).await.unwrap());
    let mut held = Box::pin(check(service.internal.clone(), "wrong"));
    assert!(waits_alone(&mut held, admitted).await);
    let stream = TokioIo::new(TcpStream::connect(service.app.grpc_addr).await.unwrap());
    let (mut sender, connection) = http1::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let first = soon(sender.send_request(unproven())).await.unwrap();
    assert_eq!((first.status().as_u16(), first.headers().get(CONNECTION)), (401, None));
    axum::body::to_bytes(Body::new(first.into_body()), 10_000).await.unwrap();
    let last = soon(sender.send_request(unproven())).await.unwrap();
    assert_eq!((last.status().as_u16(), &last.headers()[CONNECTION]), (401, &"close".parse().unwrap()));
    axum::body::to_bytes(Body::new(last.into_body()), 10_000).await.unwrap();
    soon(connection).await.unwrap().unwrap();
}

/// A client of HTTP/2 that takes no notice of the end of its connection.
struct Deaf {
    stream: TcpStream,
    next_id: u32,
}

impl Deaf {
    async fn connect(service: &Service) -> Self {
        let mut stream = TcpStream::connect(service.app.grpc_addr).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        Self { stream, next_id: 1 }
    }

    /// Sends a call without a proof: POST over http, the path, and the content type of gRPC.
    async fn call(&mut self) -> std::io::Result<()> {
        const PATH: &[u8] = b"/billing.v1.BillingInternalService/CheckQuota";
        let length = |text: &[u8]| u8::try_from(text.len()).unwrap();
        let kind = b"application/grpc";
        let mut head = vec![0x83, 0x86, 0x04, length(PATH)];
        head.extend(PATH);
        // The name of index 31, which needs a second byte.
        head.extend([0x0f, 31 - 15, length(kind)]);
        head.extend(kind);
        let mut frame = vec![0, 0, length(&head), 1, 0x05];
        frame.extend(self.next_id.to_be_bytes());
        frame.extend(head);
        self.next_id += 2;
        self.stream.write_all(&frame).await
    }

    /// Reads to the end of the next answer.
    async fn answer(&mut self) -> std::io::Result<()> {
        loop {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            self.stream.read_exact(&mut payload).await?;
            if head[3] == 1 {
                return Ok(());
            }
        }
    }
}

#[tokio::test]
async fn a_client_that_goes_on_after_the_end_loses_its_connection() {
    let service = start(&[("server.limits.held_refusals_per_connection", "1")]).await;
    let mut deaf = Deaf::connect(&service).await;
    for _ in 0..3 {
        deaf.call().await.unwrap();
    }
    for _ in 0..3 {
        soon(deaf.answer()).await.unwrap();
    }
    let mut calls = 0;
    while deaf.call().await.is_ok() && soon(deaf.answer()).await.is_ok() {
        calls += 1;
        assert!(calls < 4_000, "the connection goes on");
    }
    assert!(calls > 1_024, "{calls}: the calls that were open at the end are answered");
}

/// One user beyond a limit leaves the connection of the gateway to the others.
#[tokio::test]
async fn a_refusal_for_a_user_does_not_wait() {
    let service = start(&[("billing.rate_limits", "{user: {minute: 1}}")]).await;
    let reserve = async || {
        let hold =
            ReserveQuotaRequest { user_id: "u".into(), service_name: "asset".into(), count: 1, ..Default::default() };
        let reserved = service.internal.clone().reserve_quota(with_token(hold, TOKEN)).await;
        reserved.map(|_| ()).map_err(|status| status.code())
    };
    assert_eq!(reserve().await, Ok(()));
    for _ in 0..3 {
        assert_eq!(soon(reserve()).await, Err(Code::ResourceExhausted));
    }
}
