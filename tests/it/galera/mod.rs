//! The service on a Galera cluster, with a server on each node. Callers use any server.
//! `make test-galera SECONDS=600 SEED=7` runs longer loads with other requests.

mod beside;
mod events;
mod faults;
mod hosts;
mod pairs;
mod ready;
mod shows;
mod start;
mod webhooks;

use std::time::{Duration, Instant};

use tokio::sync::{Mutex, MutexGuard, OnceCell};

use crate::harness::{
    Database,
    books::Books,
    galera::{Galera, NODES},
    load::Crowd,
    process::ServerProcess,
};

/// If a server hangs, its caller tries another one after this time.
const TIMEOUT: (&str, &str) = ("server.grpc.timeout", "2s");

/// The cluster of the tests that leave all nodes alone.
async fn shared() -> &'static Galera {
    static CLUSTER: OnceCell<Galera> = OnceCell::const_new();
    CLUSTER.get_or_init(Galera::start).await
}

/// The cluster of the tests that disturb nodes, for one test at a time. A failed test may leave it broken.
/// Then the next test starts a new cluster.
async fn disturbed() -> MutexGuard<'static, Option<Galera>> {
    static CLUSTER: Mutex<Option<Galera>> = Mutex::const_new(None);
    let mut cluster = CLUSTER.lock().await;
    match &*cluster {
        Some(used) if used.is_whole().await => {}
        _ => *cluster = Some(Galera::start().await),
    }
    cluster
}

/// A number from the environment, or 0.
fn setting(name: &str) -> u64 {
    std::env::var(name).map_or(0, |value| value.parse().unwrap_or_else(|_| panic!("{name}={value} is not a number")))
}

fn seed() -> u64 {
    setting("GALERA_SEED")
}

/// Random users. Every other charge is for the same user.
fn crowd() -> Crowd {
    Crowd { users: 60, has_hot_user: true, refusals_are_uncertain: true, seed: seed() }
}

/// The rounds of a load: at least one, and more until GALERA_SECONDS have passed.
struct Rounds {
    begun: Instant,
    length: Duration,
}

impl Rounds {
    fn begin() -> Self {
        Self { begun: Instant::now(), length: Duration::from_secs(setting("GALERA_SECONDS")) }
    }

    fn are_done(&self) -> bool {
        self.begun.elapsed() >= self.length
    }
}

/// A server on each node. The first one migrates the database.
async fn serve(cluster: &Galera, databases: &[Database; NODES]) -> Vec<ServerProcess> {
    let mut servers = Vec::new();
    for database in databases {
        servers.push(ServerProcess::start_beside(&database.config_file(&[TIMEOUT])).await);
        cluster.catch_up().await;
    }
    servers
}

/// Each node agrees with the books of the callers, and the audit on each node is clean.
async fn assert_kept(books: &Books, cluster: &Galera, databases: &[Database; NODES]) {
    cluster.catch_up().await;
    for database in databases {
        books.assert_kept_in(database).await;
    }
}
