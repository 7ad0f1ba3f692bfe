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
        Store, dsn,
        mysql::{MySqlStore, Nodes, PoolLimits, Reads},
        sqlite::{SqliteLimits, SqliteStore},
    },
};
use proptest::test_runner::TestRunner;
use rstest::rstest;
use tokio::runtime::Runtime;

use self::{
    databases::{ARCHIVED, SEALED},
    histories::{
        histories,
        model::{Call, Overrun, Policy, Step},
        play, share_of_runner,
        steps::{History, Round},
    },
};
use crate::harness::{Backend, Database, MySql, Sqlite};

/// A runner of `PROPTEST_CASES` cases, or of the usual number.
pub fn runner(usual: u32) -> TestRunner {
    share_of_runner(usual, 0, 1)
}

#[rstest]
fn random_histories_follow_the_model(#[values(MySql, Sqlite)] on: Backend) {
    static CASES: AtomicU64 = AtomicU64::new(0);
    with_store(on, |runtime, store| {
        let mut runner = runner(500);
        runner
            .run(&histories(), |history| {
                let case = format!("{:08}", CASES.fetch_add(1, Ordering::Relaxed));
                runtime.block_on(play(store, &case, &history)).map(drop)
            })
            .unwrap();
        // Three histories in ten do both, so a few cases may do neither.
        if runner.config().cases >= 100 {
            assert!(ARCHIVED.load(Ordering::Relaxed) > 0 && SEALED.load(Ordering::Relaxed) > 0);
        }
    });
}

/// A month later, the batch opens the account of the other user, then looks its ids up, and then
/// opens the account of the old hold.
#[rstest]
fn a_repeat_of_an_old_hold_is_answered_beside_a_new_account(#[values(MySql, Sqlite)] on: Backend) {
    let call = |trace, service| Call { trace, service, count: 1, cost: None, keyed: false, model: 0, tokens: None };
    let round = |minutes, steps| Round {
        minutes,
        answer_is_lost: false,
        is_repeated: false,
        archives: false,
        caps: None,
        steps,
    };
    let charge = |trace, service| Step::Charge { call: call(trace, service), is_delivered: false };
    let history = History {
        start: "2026-11-15T00:00:00Z",
        policies: [Policy { charges_expired: false, overrun: Overrun::Charged }; 5],
        close_minutes: 3,
        daily_amount: false,
        archives: false,
        rounds: vec![
            round(0, vec![(1, Step::Reserve { call: call(1, 0), stream: 0 })]),
            round(20 * 24 * 60, vec![(1, charge(1, 3)), (0, charge(0, 0))]),
        ],
    };
    with_store(on, |runtime, store| {
        runtime.block_on(play(store, "late", &history)).unwrap();
    });
}

fn with_store(on: Backend, run: impl FnOnce(&Runtime, &Arc<dyn Store>)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (_database, store) = runtime.block_on(async {
        let database = Database::create(on).await;
        app::connect(&database.config(&[])).await.unwrap().close().await;
        let store = store_without_full_lookups(&database).await;
        (database, store)
    });
    run(&runtime, &store);
    runtime.block_on(store.close());
}

/// A store that never looks all ids up in advance, so each repeat is an unexpected duplicate.
async fn store_without_full_lookups(database: &Database) -> Arc<dyn Store> {
    let (full_lookups, acquire_timeout) = (0, Duration::from_secs(5));
    match database.backend {
        MySql => {
            let limits = PoolLimits {
                readers: 1,
                show_reads: Reads::default(),
                writers: 1,
                waiters: 1,
                acquire_timeout,
                full_lookups,
            };
            let nodes = Nodes::new(vec![dsn::mysql(&database.source).unwrap()]).unwrap();
            Arc::new(MySqlStore::new(nodes, limits))
        }
        Sqlite => {
            let limits = SqliteLimits { readers: 1, acquire_timeout, full_lookups };
            let options = dsn::sqlite(&database.source).unwrap();
            Arc::new(SqliteStore::connect(options, limits, &|_| {}).await.unwrap())
        }
    }
}
