//! Random histories of accounts against a reference model, on the real databases. The library has
//! the model and the histories; its tests play them in memory.
//! `PROPTEST_CASES` sets the number of cases.

mod databases;
#[path = "../../../src/biz/settlement/rule/tests/histories/mod.rs"]
mod histories;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use billing_service::{
    app,
    data::{
        dsn,
        mysql::{MySqlStore, Nodes, PoolLimits, Reads},
    },
};
use rstest::rstest;

pub use self::histories::runner;
use self::histories::{histories, play};
use crate::harness::{Backend, Database, MySql, Sqlite};

#[rstest]
fn random_histories_follow_the_model(#[values(MySql, Sqlite)] on: Backend) {
    static CASES: AtomicU64 = AtomicU64::new(0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (_database, store) = runtime.block_on(async {
        let database = Database::create(on).await;
        let mut store = app::connect(&database.config(&[])).await.unwrap();
        if on == MySql {
            // This store never looks ids up in advance, so each repeat is an unexpected duplicate.
            store.close().await;
            let limits = PoolLimits {
                readers: 1,
                show_reads: Reads::default(),
                writers: 1,
                waiters: 1,
                acquire_timeout: Duration::from_secs(5),
                lookup_all_batches: 0,
            };
            let nodes = Nodes::new(vec![dsn::mysql(&database.source).unwrap()]).unwrap();
            store = Arc::new(MySqlStore::new(nodes, limits));
        }
        (database, store)
    });
    runner(500)
        .run(&histories(), |history| {
            let case = format!("{:08}", CASES.fetch_add(1, Ordering::Relaxed));
            runtime.block_on(play(&store, &case, &history)).map(drop)
        })
        .unwrap();
    runtime.block_on(store.close());
}
