//! The answers to refused calls wait on a connection with many of them, and nothing else does.

use billing_service::service::proto::{
    CheckQuotaReply, CheckQuotaRequest, ReserveQuotaRequest,
    billing_internal_service_client::BillingInternalServiceClient,
};
use futures_util::{FutureExt, stream};
use tonic::{Code, Request, Status, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::{
    access::sha256,
    bounds::begin_with,
    harness::{
        Service, Sqlite, code_of,
        wait::{soon, until},
    },
};

const TOKEN: &str = "the-token-of-the-edge";
/// The first refused call is answered at once. A later answer comes after the end of the test.
const LIMITS: &str = "{refused_calls: 1, refusal_pause: 10m, requests_per_caller: 1}";

async fn start(changes: &[(&str, &str)]) -> Service {
    let callers = format!("[{{name: edge, roles: [gateway], token_sha256: ['{}']}}]", sha256(TOKEN));
    let mut all = vec![("server.limits", LIMITS), ("server.grpc.auth.callers", &callers)];
    all.extend(changes);
    Service::start_with(Sqlite, &all).await
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
        let refused = begin().await.message().await.unwrap_err();
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

/// The clients of a proxy share its connections.
#[tokio::test]
async fn refusals_do_not_wait_on_the_connection_of_a_trusted_proxy() {
    let service = start(&[("server.trusted_proxies", "[127.0.0.0/8]")]).await;
    for _ in 0..3 {
        let refused = soon(check(service.internal.clone(), "wrong")).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
    }
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
