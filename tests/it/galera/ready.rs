//! Readiness of a server whose node has left the cluster.

use super::disturbed;
use crate::harness::{Service, charge, traced, wait::until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_a_primary_component_is_not_ready() {
    let mut cluster = disturbed().await;
    let cluster = cluster.as_mut().unwrap();
    let [first, ..] = cluster.create_database().await;
    let service = Service::start_on(first, &[("billing.settlement.retry_timeout", "1s")]).await;
    service.deduct(charge("u", "asset", 1)).await;
    assert_eq!(service.get("/ready").await.0, 200);

    // The node is cut off, like by a network failure.
    cluster.execute(0, "SET GLOBAL wsrep_provider_options = 'gmcast.isolate=1'").await;
    until("the cut-off node is not ready", async || service.get("/ready").await.0 == 503).await;
    assert_eq!(service.get("/health").await.0, 200, "the server is alive");
    assert!(service.try_deduct(traced("t", charge("u", "asset", 1))).await.is_err());
    assert_eq!(service.get("/ready").await.0, 503);
    cluster.execute(0, "SET GLOBAL wsrep_provider_options = 'gmcast.isolate=0'").await;
    cluster.rejoined(0).await;
    until("the node is ready again", async || service.get("/ready").await.0 == 200).await;
    service.deduct(traced("t", charge("u", "asset", 1))).await;
    assert_eq!(service.state("u").await.1[2], 2);
    service.assert_audit_is_clean().await;

    // One node of three is no majority.
    cluster.kill(1);
    cluster.kill(2);
    until("the last node is not ready", async || service.get("/ready").await.0 == 503).await;
    // It stays not ready.
    cluster.is_cut_off(0).await;
    for _ in 0..5 {
        assert_eq!(service.get("/ready").await.0, 503);
    }

    // An operator makes this node the new cluster.
    cluster.execute(0, "SET GLOBAL wsrep_provider_options = 'pc.bootstrap=1'").await;
    cluster.rejoined(0).await;
    until("the new cluster is ready", async || service.get("/ready").await.0 == 200).await;
    for node in [1, 2] {
        cluster.start_again(node).await;
    }
}

/// A node that sends a copy of its data to another node is out of sync.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_out_of_sync_is_not_ready() {
    let cluster = disturbed().await;
    let cluster = cluster.as_ref().unwrap();
    let [first, ..] = cluster.create_database().await;
    let service = Service::start_on(first, &[]).await;
    assert_eq!(service.get("/ready").await.0, 200);
    cluster.execute(0, "SET GLOBAL wsrep_desync = ON").await;
    until("the node is not ready", async || service.get("/ready").await.0 == 503).await;
    cluster.execute(0, "SET GLOBAL wsrep_desync = OFF").await;
    until("the node is ready again", async || service.get("/ready").await.0 == 200).await;
}
