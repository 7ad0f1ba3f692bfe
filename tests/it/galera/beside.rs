//! A load on one node, and other work on another node. Its replicated writes abort transactions of the load.

use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::{Rounds, TIMEOUT, assert_kept, crowd, shared};
use crate::harness::{
    Database,
    galera::{Galera, NODES},
    load::Load,
    process::{CRON, ServerProcess, run},
    wait::until,
};

/// Fewest charges and steps of reservations in a round of a load.
const ROUND: usize = 4_000;
/// Changes of tables in a round, and the fewest charges and steps of reservations between two changes.
const CHANGES: usize = 80;
const BETWEEN_CHANGES: usize = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sweeps_on_another_node_lose_and_double_nothing() {
    let cluster = shared().await;
    let databases = cluster.create_database().await;
    let (_server, mut load) = load_of_first_node(cluster, &databases, &[("billing.reservation_ttl", "1s")]).await;
    let conf = databases[1].config_file(&[]);
    let stop = CancellationToken::new();
    let sweeps = tokio::spawn(sweep_until(conf.clone(), stop.clone()));
    let rounds = Rounds::begin();
    loop {
        load.acknowledges(ROUND).await;
        if rounds.are_done() {
            break;
        }
    }
    stop.cancel();
    let freed = sweeps.await.unwrap();
    let books = load.finish().await;
    cluster.catch_up().await;
    until("every hold ends", async || {
        sweep(&conf).await;
        databases[1].rows(&["user_id"], "FROM billing_transaction WHERE status = 'PENDING'").await.is_empty()
    })
    .await;
    books.expire_open();
    println!("{freed} holds freed during the load");
    assert!(freed > 0);
    assert_kept(&books, cluster, &databases).await;
}

/// An upgrade changes tables. A change of a table aborts transactions on that table on every node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_tables_on_another_node_lose_and_double_nothing() {
    let cluster = shared().await;
    let databases = cluster.create_database().await;
    let (_server, mut load) = load_of_first_node(cluster, &databases, &[]).await;
    databases[1].execute("CREATE TABLE other (id INT PRIMARY KEY)").await;
    let tables = ["other", "api_key_quota", "reservation_expiry", "balance_adjustment", "usage_daily"];
    let rounds = Rounds::begin();
    loop {
        for number in 0..CHANGES {
            databases[1].execute(&format!("ALTER TABLE {} FORCE", tables[number % tables.len()])).await;
            load.acknowledges(BETWEEN_CHANGES).await;
        }
        if rounds.are_done() {
            break;
        }
    }
    assert_kept(&*load.finish().await, cluster, &databases).await;
}

/// A server on the first node, and a load on it.
async fn load_of_first_node(
    cluster: &Galera,
    databases: &[Database; NODES],
    changes: &[(&str, &str)],
) -> (ServerProcess, Load) {
    let server = ServerProcess::start_beside(&databases[0].config_file(&[&[TIMEOUT], changes].concat())).await;
    cluster.catch_up().await;
    let load = Load::start_with(&[&server.grpc], crowd()).await;
    (server, load)
}

/// Runs the sweep until `stop`. Returns the number of freed holds.
async fn sweep_until(conf: PathBuf, stop: CancellationToken) -> u64 {
    let mut freed = 0;
    while !stop.is_cancelled() {
        freed += sweep(&conf).await;
    }
    freed
}

/// Runs the sweep as a command. Returns the number of freed holds. The next sweep ends the failed ones.
async fn sweep(conf: &Path) -> u64 {
    let conf = conf.to_str().unwrap().to_owned();
    let arguments = move || run(CRON, &["-conf", &conf, "--once", "expire-reservations"], &[]);
    let output = tokio::task::spawn_blocking(arguments).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let freed = said.strip_prefix("expire-reservations: ").and_then(|rest| rest.split_once(" hold"));
    freed.map_or(0, |(freed, _)| freed.parse().unwrap())
}
