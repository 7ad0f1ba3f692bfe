//! Servers that start at the same time.

use super::{Rounds, TIMEOUT, shared};
use crate::harness::{
    caller::{Caller, Dice, connections},
    charge,
    process::ServerProcess,
    traced,
};

/// Starts on an empty database, at the least.
const STARTS: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_of_two_nodes_that_start_at_once_on_an_empty_database_both_serve() {
    let cluster = shared().await;
    let rounds = Rounds::begin();
    let mut starts = 0;
    while starts < STARTS || !rounds.are_done() {
        let databases = cluster.create_database().await;
        let [first, second] = [0, 1].map(|node| databases[node].config_file(&[TIMEOUT]));
        let servers = tokio::join!(ServerProcess::start_beside(&first), ServerProcess::start_beside(&second));
        let urls = [&servers.0.grpc, &servers.1.grpc];
        let clients = tokio::sync::watch::Sender::new(Vec::new());
        let mut caller = Caller::new(clients.subscribe(), Dice(0));
        for (number, url) in urls.iter().enumerate() {
            clients.send_replace(connections(&[url]));
            caller.charge(traced(&format!("t{number}"), charge("u", "asset", 1))).await;
        }
        super::assert_kept(&caller.books, cluster, &databases).await;
        starts += 1;
    }
}
