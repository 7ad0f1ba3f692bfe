use std::sync::Mutex;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::*;
use crate::biz::{
    account::catalog::{Price, ServiceTerms},
    jobs::{
        low_balance::{LowCounts, Percent},
        runs::{Begun, Run},
    },
    values::{
        calendar::{Clock, Month},
        ids::ServiceName,
        money::Money,
    },
};

/// Answers in order: after a number of seconds, a count of users or an error (`None`). After the
/// last answer, it never answers.
struct Script {
    answers: Mutex<Vec<(u64, Option<u64>)>>,
    /// The times of the queries, in seconds since the start.
    asked: Mutex<Vec<u64>>,
    start: Instant,
    stored: Mutex<Option<StoredCounts>>,
    /// The holder of the lease.
    holder: Mutex<Option<String>>,
}

#[async_trait]
impl LowBalanceStore for Script {
    async fn count_low(&self, _: Thresholds, _: Month, _: Duration) -> Result<LowCounts, StoreError> {
        self.asked.lock().unwrap().push(self.start.elapsed().as_secs());
        let answer = self.answers.lock().unwrap().pop();
        let Some((seconds, users)) = answer else { std::future::pending().await };
        sleep(Duration::from_secs(seconds)).await;
        let balance = users.ok_or(StoreError::Unavailable("down".into()))?;
        Ok(LowCounts { balance, ..LowCounts::default() })
    }

    async fn stored_counts(&self, _: &str) -> Result<Option<StoredCounts>, StoreError> {
        Ok(self.stored.lock().unwrap().clone())
    }

    async fn store_counts(&self, _: &str, stored: &StoredCounts) -> Result<(), StoreError> {
        *self.stored.lock().unwrap() = Some(stored.clone());
        Ok(())
    }
}

#[async_trait]
impl RunStore for Script {
    async fn begin_run(&self, _: &Run) -> Result<Begun, StoreError> {
        unreachable!("no run is stored")
    }

    async fn renew_run(&self, _: &Run, _: Option<&str>) -> Result<bool, StoreError> {
        unreachable!("no run is stored")
    }

    async fn end_run(&self, _: &Run, _: bool) -> Result<(), StoreError> {
        unreachable!("no run is stored")
    }

    async fn store_run(&self, _: &'static str, _: &str, _: Option<&str>) -> Result<(), StoreError> {
        unreachable!("no run is stored")
    }

    async fn take_lease(&self, _: &'static str, owner: &str) -> Result<bool, StoreError> {
        let mut holder = self.holder.lock().unwrap();
        let is_free = holder.is_none();
        if is_free {
            *holder = Some(owner.to_owned());
        }
        Ok(is_free)
    }

    async fn give_lease_back(&self, _: &'static str, _: &str) -> Result<(), StoreError> {
        *self.holder.lock().unwrap() = None;
        Ok(())
    }
}

/// The paused time of the test.
struct TestTime(Instant);

impl Clock for TestTime {
    fn now(&self) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + self.0.elapsed()
    }
}

/// A server, with the metrics that it shows.
type Server = (Arc<Metrics>, LowBalances<Script>);

/// A script, and two servers with its counts.
fn counting(mut answers: Vec<(u64, Option<u64>)>) -> (Arc<Script>, [Server; 2]) {
    answers.reverse();
    let start = Instant::now();
    let script = Script {
        answers: answers.into(),
        asked: Mutex::default(),
        start,
        stored: Mutex::default(),
        holder: Mutex::default(),
    };
    let store = Arc::new(script);
    let servers = ["a", "b"].map(|owner| {
        let metrics = Arc::new(Metrics::new().unwrap());
        let accounts = LowBalances {
            store: store.clone(),
            thresholds: Thresholds { balance: Money::ZERO, quota: Percent::from_hundredths(0) },
            catalog: Arc::new(Catalog::new([(
                ServiceName::from_stored("asset"),
                ServiceTerms { price: Price::Unit(Money::ZERO), free_quota: 0, policy: Default::default() },
            )])),
            calendar: Arc::new(Calendar::new(chrono_tz::UTC, TestTime(start))),
            metrics: metrics.clone(),
            owner: owner.into(),
        };
        (metrics, accounts)
    });
    (store, servers)
}

fn shown(metrics: &Metrics) -> Option<u64> {
    let text = String::from_utf8(metrics.render().unwrap()).unwrap();
    text.lines().find_map(|line| line.strip_prefix("billing_low_balance_users ")).map(|users| users.parse().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_count_follows_the_start_and_slow_ones_follow_at_longer_intervals() {
    let (store, [(_, accounts), _]) = counting(vec![(0, Some(1)), (2, Some(1)), (5, Some(1)), (0, Some(1))]);
    tokio::spawn(accounts.show_regularly(CancellationToken::new()));
    sleep(Duration::from_secs(310)).await;
    // A look every 60 s after the last: at 0, 60, 122, 187, 247 and 307. The count of 5 s is not due again before 227.
    assert_eq!(*store.asked.lock().unwrap(), [0, 60, 122, 247, 307]);
}

#[tokio::test(start_paused = true)]
async fn a_failed_count_keeps_the_gauge_and_a_hanging_count_times_out() {
    let (store, [(metrics, accounts), _]) =
        counting(vec![(3, None), (1, Some(7)), (1, None), (100, Some(8)), (1, Some(3))]);
    tokio::spawn(accounts.show_regularly(CancellationToken::new()));
    let mut seen = Vec::new();
    for seconds in [50, 70, 120, 700, 120] {
        sleep(Duration::from_secs(seconds)).await;
        seen.push(shown(&metrics));
    }
    // The gauge is absent before the first count. The count of 100 s times out after 40 s, and the pause is 800 s.
    assert_eq!(seen, [None, Some(7), Some(7), Some(7), Some(3)]);
    assert_eq!(*store.asked.lock().unwrap(), [0, 63, 124, 185, 1_025]);
}

#[tokio::test(start_paused = true)]
async fn one_server_counts_for_all_and_another_when_it_is_gone() {
    let (store, servers) = counting(vec![(10, Some(1)), (0, Some(2)), (0, Some(3))]);
    let [(first, one), (second, other)] = servers;
    let stop = CancellationToken::new();
    tokio::spawn(one.show_regularly(stop.clone()));
    sleep(Duration::from_secs(5)).await;
    tokio::spawn(other.show_regularly(CancellationToken::new()));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(*store.asked.lock().unwrap(), [0], "the first server has the lease");
    sleep(Duration::from_secs(64)).await;
    assert_eq!((shown(&first), shown(&second)), (Some(1), Some(1)));
    stop.cancel();
    sleep(Duration::from_secs(300)).await;
    // The count of 10 s is due again after 200 s.
    let asked = store.asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 3, "{asked:?}");
    assert!(asked[1] >= 210, "{asked:?}");
    assert_eq!((shown(&first), shown(&second)), (Some(1), Some(3)));
}

#[tokio::test(start_paused = true)]
async fn a_count_that_is_too_slow_is_not_repeated_by_the_other_servers_in_turn() {
    let (store, servers) = counting(vec![(1, Some(7)), (100, None), (100, None), (1, Some(8))]);
    let stop = CancellationToken::new();
    for (_, server) in servers {
        tokio::spawn(server.show_regularly(stop.clone()));
        sleep(Duration::from_secs(2)).await;
    }
    sleep(Duration::from_secs(900)).await;
    let asked = store.asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 3, "one count of 40 s in 840 s: {asked:?}");
    assert!(asked[2] >= asked[1] + 840, "{asked:?}");
    stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_first_count_that_is_too_slow_is_not_repeated_by_the_other_servers_in_turn() {
    let (store, [(first, one), (second, other)]) = counting(vec![(100, None), (100, None), (1, Some(8))]);
    let stop = CancellationToken::new();
    for server in [one, other] {
        tokio::spawn(server.show_regularly(stop.clone()));
        sleep(Duration::from_secs(2)).await;
    }
    sleep(Duration::from_secs(900)).await;
    let asked = store.asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 2, "one count of 40 s in 840 s: {asked:?}");
    assert!(asked[1] >= 840, "{asked:?}");
    assert_eq!((shown(&first), shown(&second)), (None, None));
    sleep(Duration::from_secs(900)).await;
    assert_eq!((shown(&first), shown(&second)), (Some(8), Some(8)));
    stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_a_count_and_the_pause_between_two() {
    for answers in [vec![], vec![(0, Some(1))]] {
        let (_, [(_, accounts), _]) = counting(answers);
        let stop = CancellationToken::new();
        let running = tokio::spawn(accounts.show_regularly(stop.clone()));
        sleep(Duration::from_secs(1)).await;
        stop.cancel();
        timeout(Duration::from_secs(1), running).await.unwrap().unwrap();
    }
}
