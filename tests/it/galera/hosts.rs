//! One server that knows all nodes, and uses another when its node fails.

use super::{TIMEOUT, assert_kept, disturbed};
use crate::harness::{Database, galera::NODES, load::Load, process::ServerProcess, wait::until};

/// Charges, and steps of reservations, that are acknowledged between two faults.
const BETWEEN_FAULTS: usize = 200;

/// Whether one of the pools, and not only the check of each second, has a connection to the node.
async fn is_used(database: &Database) -> bool {
    let count = database.rows(&["COUNT(*)"], "FROM information_schema.processlist WHERE db = DATABASE()").await;
    // The connection that counts, and the one that checks.
    count[0][0].parse::<usize>().unwrap() > 2
}

/// The node that all pools use. A busy machine may have made the server leave the first one.
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
async fn a_server_that_knows_all_nodes_uses_one_that_is_well() {
    let mut cluster = disturbed().await;
    let cluster = cluster.as_mut().unwrap();
    let databases = cluster.create_database().await;
    let address = |source: &str| source.split_once("@tcp(").unwrap().1.split_once(')').unwrap().0.to_owned();
    let hosts = databases.each_ref().map(|database| address(&database.source)).join("', '");
    let hosts = format!("['{hosts}']");
    // Lanes that waited for a frozen node would wait longer than the test.
    let changes = [TIMEOUT, ("data.database.hosts", hosts.as_str()), ("billing.settlement.retry_timeout", "600s")];
    let server = ServerProcess::start_beside(&databases[0].config_file(&changes)).await;
    cluster.catch_up().await;
    let mut load = Load::start(&[&server.grpc]).await;
    load.acknowledges(BETWEEN_FAULTS).await;

    // Out of sync, as a node that gives another one a copy of its data.
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
    // As a node that stayed sees it: the frozen one wakes with its old view.
    cluster.sees(other, NODES).await;
    cluster.rejoined(frozen).await;
    load.acknowledges(BETWEEN_FAULTS).await;

    // Cut off from the cluster, as by a network that fails, although the server still reaches it.
    let alone = node_in_use(&databases).await;
    cluster.execute(alone, "SET GLOBAL wsrep_provider_options = 'gmcast.isolate=1'").await;
    load.acknowledges(BETWEEN_FAULTS).await;
    cluster.execute(alone, "SET GLOBAL wsrep_provider_options = 'gmcast.isolate=0'").await;
    cluster.rejoined(alone).await;
    load.acknowledges(BETWEEN_FAULTS).await;
    assert_kept(&*load.finish().await, cluster, &databases).await;
}
