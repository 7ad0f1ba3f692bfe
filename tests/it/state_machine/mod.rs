//! Random histories of accounts against a reference model, in memory and on the real
//! databases: every answer, balance and quota equals the model's after every batch,
//! and the books audit clean. `PROPTEST_CASES` asks for more cases.

mod answers;
mod books;
mod model;
mod play;
mod postings;
mod stage;
mod steps;

use std::{
    cell::RefCell,
    collections::BTreeMap,
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
        mysql::{MySqlStore, PoolLimits},
    },
};
use proptest::test_runner::{Config, RngAlgorithm, TestRunner};
use rstest::rstest;

use self::{books::Books, play::play, steps::histories};
use crate::harness::{Backend, Database, MySql, Sqlite};

/// Runs so many cases, or more where the environment asks for more.
pub fn runner(cases: u32) -> TestRunner {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(0);
    let cases = cases.max(asked);
    // Half the time of a case goes into the choices otherwise.
    let rng_algorithm = RngAlgorithm::XorShift;
    TestRunner::new(Config { cases, rng_algorithm, failure_persistence: None, ..Config::default() })
}

/// What some histories must have, or they would prove less than they say.
const RARE: [&str; 35] = [
    "a stream that was replaced reports",
    "a stream that was replaced commits",
    "a text has less than its stream had reported",
    "a stream takes over",
    "a report comes late",
    "a hold grows",
    "a hold grows as far as the balance",
    "a hold grows as far as the key",
    "a hold grows after midnight",
    "free units are held with a stream",
    "a stream that nobody ends is charged",
    "a stream that broke had reported more",
    "what was reported is freed",
    "a commit knows better than a report",
    "a commit knows of less than a report",
    "a rest falls short",
    "a rest is partly free",
    "a stream reports what was charged",
    "a server knows better than the sweep",
    "a stream reports what has expired",
    "a key has no tokens left for a stream",
    "what expired is charged late",
    "a capped commit falls short",
    "a spilled commit falls short",
    "a commit spills",
    "a spill meets a debt",
    "a commit overdraws",
    "a stream goes on after midnight",
    "a stream goes on after the end of the month",
    "tokens are partly free",
    "a charge in tokens is partly free",
    "prices changed since the reserve",
    "a cost takes the place of the prices",
    "a call has nothing to be priced by",
    "what was delivered has nothing to be priced by",
];

#[test]
fn random_histories_follow_the_model_in_memory() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let seen: RefCell<BTreeMap<&str, u32>> = RefCell::default();
    let cases = 10_000;
    runner(cases)
        .run(&histories(), |history| {
            for rare in runtime.block_on(play(&Books::default(), "u", &history))? {
                *seen.borrow_mut().entry(rare).or_default() += 1;
            }
            Ok(())
        })
        .unwrap();
    let seen = seen.into_inner();
    println!("{seen:#?}");
    for rare in RARE {
        let histories = seen.get(rare).copied().unwrap_or(0);
        assert!(histories >= cases / 1_000, "{rare}: in {histories} histories");
    }
}

#[rstest]
fn random_histories_follow_the_model(#[values(MySql, Sqlite)] on: Backend) {
    static CASES: AtomicU64 = AtomicU64::new(0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (_database, store) = runtime.block_on(async {
        let database = Database::create(on).await;
        let mut store = app::connect(&database.config(&[])).await.unwrap();
        if on == MySql {
            // One that never expects a repeat, and so meets each of them by surprise.
            store.close().await;
            let limits =
                PoolLimits { readers: 1, writers: 1, acquire_timeout: Duration::from_secs(5), lookup_all_batches: 0 };
            store = Arc::new(MySqlStore::new(dsn::mysql(&database.source).unwrap(), limits));
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
