//! The other answers of the ports: health, reflection, metrics, and silent clients.

use std::{process::Command, time::Duration};

use billing_service::service::proto::{
    CheckQuotaRequest, billing_internal_service_client::BillingInternalServiceClient,
};
use rstest::rstest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_stream::StreamExt;
use tonic::{Code, Request, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::harness::{Backend, Database, MySql, Service, Sqlite, charge, code_of, mariadb::OwnServer, traced};

async fn channel(service: &Service) -> Channel {
    Channel::from_shared(format!("http://{}", service.app.grpc_addr)).unwrap().connect().await.unwrap()
}

/// The kernel knows the queue of a port. 77 is below each limit of a kernel, and no default.
#[tokio::test]
async fn connections_to_both_ports_wait_in_the_configured_queue() {
    let service = Service::start_with(Sqlite, &[("server.limits.accept_queue", "77")]).await;
    for addr in [service.app.http_addr, service.app.grpc_addr] {
        let port = format!("sport = :{}", addr.port());
        let output = Command::new("ss").args(["-H", "-l", "-t", "-n", &port]).output().expect("ss of iproute2 runs");
        let sockets = String::from_utf8(output.stdout).unwrap();
        let fields: Vec<_> = sockets.split_whitespace().collect();
        // Between them is the number of connections that wait now.
        assert_eq!((fields[0], fields[2]), ("LISTEN", "77"), "{sockets}");
    }
}

#[rstest]
#[tokio::test]
async fn both_ports_answer_health_and_readiness(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    for addr in [service.app.http_addr, service.app.grpc_addr] {
        let ready = match on {
            MySql => r#"{"status":"UP","service":"billing-service","redis":"UP"}"#,
            Sqlite => r#"{"status":"UP","service":"billing-service"}"#,
        };
        for (path, body) in [("health", r#"{"status":"UP","service":"billing-service"}"#), ("ready", ready)] {
            let response = service.http.get(format!("http://{addr}/{path}")).send().await.unwrap();
            assert_eq!(response.status(), 200);
            assert_eq!(response.text().await.unwrap(), body);
        }
    }
    let mut health = HealthClient::new(channel(&service).await);
    for name in [
        "",
        "billing.v1.BillingService",
        "billing.v1.BillingInternalService",
        "envoy.service.ratelimit.v3.RateLimitService",
    ] {
        let reply = health.check(HealthCheckRequest { service: name.into() }).await.unwrap().into_inner();
        assert_eq!(reply.status, 1, "{name}");
    }
}

#[rstest]
#[tokio::test]
async fn reflection_names_the_services(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(channel(&service).await);
    let mut replies = client.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
    let reply = replies.next().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = reply.message_response else { panic!("{reply:?}") };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in [
        "billing.v1.BillingService",
        "billing.v1.BillingInternalService",
        "envoy.service.ratelimit.v3.RateLimitService",
        "grpc.health.v1.Health",
    ] {
        assert!(names.contains(&name), "{names:?}");
    }
}

#[rstest]
#[tokio::test]
async fn metrics_have_the_names_of_the_contract(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.adjust("u", 1.0).await;
    service.check("u", "asset", 1).await;
    service.deduct(charge("u", "asset", 1010)).await;
    let _ = service.try_deduct(charge("u", "asset", 1_000)).await;
    let _ = service.try_deduct(charge("u", "made-up-name", 1)).await;
    let text = service.metrics().await;
    for line in [
        r#"billing_quota_check_total{result="free",service="asset"} 1"#,
        r#"billing_quota_deduct_total{service="asset",type="mixed"} 1"#,
        r#"billing_deduct_failure{reason="insufficient_balance"} 1"#,
        r#"billing_deduct_failure{reason="unknown_service"} 1"#,
        "billing_deduct_success 1",
        r#"billing_balance_amount{operation="deduct"} 0.5"#,
        "billing_quota_check_duration_seconds_count 1",
        "billing_quota_deduct_duration_seconds_count 3",
        "quota_check_duration_ms_count 1",
        r#"billing_duration_ms_count{operation="deduct"} 3"#,
        "billing_idempotent_hit 0",
        "billing_idempotent_conflict 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("made-up-name"), "a caller's text became a label");
    assert_eq!(service.get("/metrics").await.0, 404, "metrics are not public");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_shows_in_readiness_and_as_overload_and_never_as_missing_data() {
    let server = OwnServer::start().await;
    let database = Database::on(server.create_database().await);
    // Short, but long enough for a busy machine while the database answers.
    let changes =
        [("billing.settlement.retry_timeout", "4s"), ("server.grpc.timeout", "8s"), ("server.http.timeout", "8s")];
    let service = Service::start_on(database, &changes).await;
    service.adjust("u", 1.0).await;
    // The proxy accepts connections and does not answer. This is worse than a refusal.
    server.signal("STOP");
    let (charged, ready, account) = futures_util::join!(
        service.try_deduct(traced("t", charge("u", "asset", 1))),
        service.get("/ready"),
        service.get("/api/v1/billing/account?user_id=u"),
    );
    assert_eq!(code_of(&charged.unwrap_err()), (Code::Unavailable, "10014".into()));
    assert_eq!((ready.0, &ready.1["status"]), (503, &serde_json::json!("DOWN")));
    assert_eq!((account.0, &account.1["reason"]), (503, &serde_json::json!("OVERLOADED")));
    assert_eq!(service.get("/health").await.0, 200);

    server.signal("CONT");
    let back = async { while service.try_deduct(traced("t", charge("u", "asset", 1))).await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(30), back).await.expect("the service recovers");
    assert_eq!(service.state("u").await, (1.0, [0, 0, 1]));
    service.assert_audit_is_clean().await;

    // A stop ends while a charge is in flight to a silent database.
    server.signal("STOP");
    let mut client = service.internal.clone();
    let pending = tokio::spawn(async move { client.deduct_quota(charge("u", "asset", 1)).await });
    tokio::time::timeout(Duration::from_secs(20), service.app.stop()).await.expect("the service stops");
    assert!(pending.await.unwrap().is_err());
    server.signal("CONT");
}

/// A client that sends nothing, one that stops in the preface of HTTP/2, and one that stops in a
/// header.
#[tokio::test(start_paused = true)]
async fn a_silent_client_is_dropped() {
    let app = axum::Router::new();
    let limits = billing_service::server::ListenerLimits {
        connections: 10,
        drain_timeout: Duration::from_secs(1),
        ..Default::default()
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    tokio::spawn(billing_service::server::serve(listener, app, limits, stop.clone()));
    for beginning in ["", "P", "PRI * HTTP/2.0\r\n", "GET / HTTP/1.1\r\nhos"] {
        let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
        stream.write_all(beginning.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        // The paused clock advances while all tasks wait.
        let closed = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "{beginning:?} was kept");
    }
}

#[tokio::test]
async fn an_unknown_rpc_is_unimplemented() {
    let service = Service::start(Sqlite).await;
    let mut grpc = tonic::client::Grpc::new(channel(&service).await);
    let codec = tonic_prost::ProstCodec::<CheckQuotaRequest, CheckQuotaRequest>::default();
    for path in ["/billing.v1.BillingService/Nothing", "/no.such/Service"] {
        grpc.ready().await.unwrap();
        let reply = grpc.unary(Request::new(CheckQuotaRequest::default()), path.parse().unwrap(), codec.clone()).await;
        assert_eq!(reply.unwrap_err().code(), Code::Unimplemented, "{path}");
    }
}

#[tokio::test]
async fn the_internal_service_requires_a_token_if_tokens_are_set() {
    let tokens = ("server.grpc.internal_tokens", "[0123456789abcdef, fedcba9876543210]");
    let service = Service::start_with(Sqlite, &[tokens, ("server.http.internal_routes", "true")]).await;
    let check =
        || CheckQuotaRequest { user_id: "u".into(), service_name: "asset".into(), count: 1, ..Default::default() };
    let mut client = BillingInternalServiceClient::new(channel(&service).await);
    for (header, allowed) in [
        (None, false),
        (Some(""), false),
        (Some("Bearer "), false),
        (Some("Bearer 0123456789abcdeg"), false),
        (Some("Bearer 0123456789abcde"), false),
        (Some("Basic 0123456789abcdef"), false),
        (Some("Bearer 0123456789abcdef"), true),
        (Some("bearer fedcba9876543210"), true),
    ] {
        let mut request = Request::new(check());
        if let Some(header) = header {
            request.metadata_mut().insert("authorization", header.parse().unwrap());
        }
        match client.check_quota(request).await {
            Ok(_) => assert!(allowed, "{header:?}"),
            Err(refused) => {
                assert!(!allowed, "{header:?}");
                assert_eq!(code_of(&refused), (Code::Unauthenticated, "10012".into()));
            }
        }
        for addr in [service.app.grpc_addr, service.app.http_addr] {
            let mut request = service.http.post(format!("http://{addr}/internal/v1/billing/check"));
            if let Some(header) = header {
                request = request.header("authorization", header);
            }
            let body = r#"{"user_id":"u","service_name":"asset","count":1}"#;
            let status = request.body(body).send().await.unwrap().status();
            assert_eq!(status.as_u16(), if allowed { 200 } else { 401 }, "{header:?}");
        }
    }
    // The public port has another proof.
    assert_eq!(service.get("/api/v1/billing/account/u").await.0, 200);
    assert_eq!(service.get("/health").await.0, 200);
}
