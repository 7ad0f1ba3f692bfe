//! A collector that is down, or answers nothing, harms no request and no stop.

use futures_util::future::join_all;
use rstest::rstest;
use tokio::net::TcpListener;

use super::below;
use crate::harness::{
    Database, Sqlite, charge, http_client,
    process::ServerProcess,
    wait::{soon, until},
};
use billing_service::service::proto::billing_internal_service_client::BillingInternalServiceClient;

/// More requests than fit into the queue of spans, as each makes several.
const REQUESTS: usize = 3_000;

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_down_or_silent_costs_spans_alone(#[values("down", "silent")] collector: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("'http://{}'", listener.local_addr().unwrap());
    // A silent one accepts connections, and reads and answers nothing. A port that was closed refuses them.
    let silent = (collector == "silent").then_some(listener);
    let database = Database::create(Sqlite).await;
    let conf = database.config_file(&[
        ("telemetry.otlp_endpoint", &endpoint),
        ("telemetry.sample_ratio", "1"),
        ("log.requests", "none"),
    ]);
    let starting = tokio::task::spawn_blocking(move || ServerProcess::start_logged(&conf));
    let (server, mut log) = starting.await.unwrap();
    let client = BillingInternalServiceClient::connect(server.grpc.clone()).await.unwrap();
    for _ in 0..REQUESTS / 100 {
        let burst = (0..100).map(|number| {
            let mut client = client.clone();
            let parent = format!("00-{:032x}-{:016x}-01", number + 1, number + 1);
            async move { client.deduct_quota(below(&parent, charge("u", "passport", 1))).await }
        });
        let failed = join_all(burst).await.into_iter().find_map(Result::err);
        assert!(failed.is_none(), "{failed:?}");
    }
    let complains = |line: &serde_json::Value| {
        line["message"] == "trace collector does not take spans; they are lost until it does"
    };
    let told = tokio::task::spawn_blocking(move || {
        log.line(complains);
        log
    });
    let log = soon(told).await.unwrap();
    assert_eq!(log.count(complains), 1, "an outage has one line");
    until("the lost spans are counted", async || lost_spans(&server).await > 0).await;
    server.terminate();
    let stopping = tokio::task::spawn_blocking(move || server.wait());
    assert_eq!(soon(stopping).await.unwrap(), Some(0));
    drop(silent);
}

async fn lost_spans(server: &ServerProcess) -> u64 {
    let metrics = http_client().get(format!("{}/metrics", server.grpc)).send().await.unwrap().text().await.unwrap();
    let value = metrics.lines().find_map(|line| line.strip_prefix("billing_spans_lost_total "));
    value.unwrap().parse().unwrap()
}

/// The spans that wait at the stop are sent.
#[tokio::test]
async fn a_stop_sends_the_last_spans() {
    let seen = super::Seen::start(Sqlite, &[]).await;
    let mut client = seen.internal.clone();
    client.deduct_quota(below(&super::parent("01"), charge("u", "asset", 1))).await.unwrap();
    seen.server.terminate();
    let (server, collector) = (seen.server, seen.collector);
    assert_eq!(soon(tokio::task::spawn_blocking(move || server.wait())).await.unwrap(), Some(0));
    until("the rpc has come", async || super::roots(&collector.spans()) == 1).await;
}
