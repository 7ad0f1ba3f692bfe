//! A server that knows all nodes, and uses another one when its node fails.

use super::{TIMEOUT, assert_kept, disturbed};
use crate::harness::{Database, galera::NODES, load::Load, process::ServerProcess, wait::until};

/// Acknowledged charges and steps of reservations between two faults.
const BETWEEN_FAULTS: usize = 200;

/// Whether a pool has a connection to the node. The check of each second also has one.
async fn is_used(database: &Database) -> bool {
    let count = database.rows(&["COUNT(*)"], "FROM information_schema.processlist WHERE db = DATABASE()").await;
    // The connection of this query, and the one of the check.
    count[0][0].parse::<usize>().unwrap() > 2
}

/// The node that all pools use. On a busy machine, the server may have left the first node.
async fn node_in_use(databases: &[Database; NODES]) -> usize {
    let mut used = Vec::new();
    until("the server uses one node", async || {
        used.clear();
        for (node, database) in databases.iter().enumerate() {
            used.extend(is_used(database).await.then_some(node));
        }
        used.len() == 1
    })
    .await;
    used[0]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_knows_all_nodes_uses_a_healthy_one() {
    let mut cluster = disturbed().await;
    let cluster = cluster.as_mut().unwrap();
    let databases = cluster.create_database().await;
    let address = |source: &str| source.split_once("@tcp(").unwrap().1.split_once(')').unwrap().0.to_owned();
    let hosts = databases.each_ref().map(|database| address(&database.source)).join("', '");
    let hosts = format!("['{hosts}']");
    // With this retry_timeout, the test fails if the lanes wait for a frozen node.
    let changes = [TIMEOUT, ("data.database.hosts", hosts.as_str()), ("billing.settlement.retry_timeout", "600s")];
    let server = ServerProcess::start_beside(&databases[0].config_file(&changes)).await;
    cluster.catch_up().await;
    let mut load = Load::start(&[&server.grpc]).await;
    load.acknowledges(BETWEEN_FAULTS).await;

    // A node that sends a copy of its data to another node is out of sync.
    let donor = node_in_use(&databases).await;
    cluster.execute(donor, "SET GLOBAL wsrep_desync = ON").await;
    until("the server has left the node", async || !is_used(&databases[donor]).await).await;
    load.acknowledges(BETWEEN_FAULTS).await;
    cluster.execute(donor, "SET GLOBAL wsrep_desync = OFF").await;

    let frozen = node_in_use(&databases).await;
    let other = (frozen + 1) % NODES;
    cluster.freeze(frozen);
    cluster.sees(other, NODES - 1).await;
    load.acknowledges(BETWEEN_FAULTS).await;
    cluster.thaw(frozen);
    // Asks a node of the remaining cluster, because the frozen node wakes with its old view.
    cluster.sees(other, NODES).await;
    cluster.rejoined(frozen).await;
    load.acknowledges(BETWEEN_FAULTS).await;

    // The node is cut off from the cluster, but the server still reaches it.
    let alone = node_in_use(&databases).await;
    cluster.execute(alone, "SET GLOBAL wsrep_provider_options = 'gmcast.isolate=1'").await;
    load.acknowledges(BETWEEN_FAULTS).await;
    // The server may leave the node before the node itself knows that it is alone.
    cluster.is_cut_off(alone).await;
    cluster.execute(alone, "SET GLOBAL wsrep_provider_options = 'gmcast.isolate=0'").await;
    cluster.sees(alone, NODES).await;
    cluster.rejoined(alone).await;
    load.acknowledges(BETWEEN_FAULTS).await;
    assert_kept(&*load.finish().await, cluster, &databases).await;
}
