//! Streams that live longer than the age limit of their connection.

use billing_service::service::proto::{CheckQuotaRequest, StreamFinish};
use rstest::rstest;
use tonic::Code;

use super::{Gateway, models_with, stream};
use crate::harness::{Backend, MySql, Service, Sqlite, wait::until};

/// Number of gRPC connections that were ended because of their age.
async fn aged(service: &Service) -> u32 {
    let metrics = service.metrics().await;
    let line = r#"billing_connections_ended_total{port="grpc",reason="age"} "#;
    metrics.lines().find_map(|found| found.strip_prefix(line)).map_or(0, |count| count.parse().unwrap())
}

/// Makes a check on any connection. If GOAWAY arrives while tonic's client is about to send a call, the client
/// cancels the call or fails it with the GOAWAY, and the server does not see it.
async fn check(service: &Service) {
    let request =
        CheckQuotaRequest { user_id: "u".into(), service_name: "asset".into(), count: 1, ..Default::default() };
    loop {
        match service.internal.clone().check_quota(request.clone()).await {
            Ok(reply) => return assert!(reply.into_inner().allowed),
            Err(status) => assert!(matches!(status.code(), Code::Cancelled | Code::Unknown), "{status}"),
        }
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_outlives_the_age_of_its_connection(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, &models_with("server.limits.max_connection_age", "1s")).await;
    // Over REST, because its client handles the end of a connection.
    let credit = r#"{"user_id":"u","amount":100,"reason":"for a test","adjustment_id":"a"}"#;
    assert_eq!(service.post("/internal/v1/billing/adjust", credit).await.0, 200);
    let (mut gateway, _) = Gateway::open(&service, stream("s", "rag", "dear", (1, 3))).await;
    gateway.deliver(0, 1).await;
    for round in 1..5 {
        let before = aged(&service).await;
        until("a connection has aged", async || {
            check(&service).await;
            aged(&service).await > before + 1
        })
        .await;
        gateway.deliver(round, 1).await;
    }
    assert_eq!(gateway.finish(StreamFinish::default()).await.unwrap().amount, 6.0);
    service.assert_audit_is_clean().await;
}
