//! Servers that start at the same time.

use futures_util::future::join_all;
use tokio::sync::watch;

use super::{Rounds, TIMEOUT, assert_kept, shared};
use crate::harness::{
    caller::{Caller, Dice, connections},
    charge,
    galera::Galera,
    process::ServerProcess,
    traced,
};

/// Fewest rounds, and the concurrent databases of a round. Concurrent starts meet at more different
/// points.
const ROUNDS: usize = 2;
const AT_ONCE: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_on_two_nodes_can_start_together_on_an_empty_database() {
    let cluster = shared().await;
    let rounds = Rounds::begin();
    let mut done = 0;
    while done < ROUNDS || !rounds.are_done() {
        join_all((0..AT_ONCE).map(|_| start_two_servers(cluster))).await;
        done += 1;
    }
}

async fn start_two_servers(cluster: &Galera) {
    let databases = cluster.create_database().await;
    let [first, second] = [0, 1].map(|node| databases[node].config_file(&[TIMEOUT]));
    let servers = tokio::join!(ServerProcess::start_beside(&first), ServerProcess::start_beside(&second));
    let clients = watch::Sender::new(Vec::new());
    let mut caller = Caller::new(clients.subscribe(), Dice(0));
    for (number, server) in [&servers.0, &servers.1].into_iter().enumerate() {
        clients.send_replace(connections(&[&server.grpc]));
        caller.charge(traced(&format!("t{number}"), charge("u", "asset", 1))).await;
    }
    assert_kept(&caller.books, cluster, &databases).await;
}
