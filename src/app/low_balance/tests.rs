use std::sync::Mutex;

use async_trait::async_trait;

use super::*;
use crate::biz::{
    account::catalog::{Price, ServiceTerms},
    jobs::low_balance::{LowCounts, Percent},
    values::{
        calendar::{Month, SystemClock},
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
}

fn counting(mut answers: Vec<(u64, Option<u64>)>) -> (Arc<Script>, Arc<Metrics>, LowBalances) {
    answers.reverse();
    let store = Arc::new(Script { answers: answers.into(), asked: Mutex::default(), start: Instant::now() });
    let metrics = Arc::new(Metrics::new().unwrap());
    let accounts = LowBalances {
        store: store.clone(),
        thresholds: Thresholds { balance: Money::ZERO, quota: Percent::from_hundredths(0) },
        catalog: Arc::new(Catalog::new([(
            ServiceName::from_stored("asset"),
            ServiceTerms { price: Price::Unit(Money::ZERO), free_quota: 0, policy: Default::default() },
        )])),
        calendar: Arc::new(Calendar::new(chrono_tz::UTC, SystemClock)),
        metrics: metrics.clone(),
    };
    (store, metrics, accounts)
}

fn shown(metrics: &Metrics) -> Option<u64> {
    let text = String::from_utf8(metrics.render().unwrap()).unwrap();
    text.lines().find_map(|line| line.strip_prefix("billing_low_balance_users ")).map(|users| users.parse().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_count_follows_the_start_and_slow_ones_follow_at_longer_intervals() {
    let (store, _, accounts) = counting(vec![(0, Some(1)), (2, Some(1)), (5, Some(1)), (0, Some(1))]);
    tokio::spawn(accounts.count_regularly(CancellationToken::new()));
    sleep(Duration::from_secs(300)).await;
    // The pause is 60 s after a count of 2 s, and 100 s after a count of 5 s. The last query is in flight.
    assert_eq!(*store.asked.lock().unwrap(), [0, 60, 122, 227, 287]);
}

#[tokio::test(start_paused = true)]
async fn a_failed_count_keeps_the_gauge_and_a_hanging_count_times_out() {
    let (store, metrics, accounts) = counting(vec![(3, None), (1, Some(7)), (1, None), (100, Some(8)), (1, Some(3))]);
    tokio::spawn(accounts.count_regularly(CancellationToken::new()));
    let mut seen = Vec::new();
    for seconds in [50, 70, 120, 1_200, 10] {
        sleep(Duration::from_secs(seconds)).await;
        seen.push(shown(&metrics));
    }
    // The gauge is absent before the first count. The count of 100 s times out after 60 s.
    assert_eq!(seen, [None, Some(7), Some(7), Some(7), Some(3)]);
    assert_eq!(*store.asked.lock().unwrap(), [0, 63, 124, 185, 1_445]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_a_count_and_the_pause_between_two() {
    for answers in [vec![], vec![(0, Some(1))]] {
        let (_, _, accounts) = counting(answers);
        let stop = CancellationToken::new();
        let running = tokio::spawn(accounts.count_regularly(stop.clone()));
        sleep(Duration::from_secs(1)).await;
        stop.cancel();
        timeout(Duration::from_secs(1), running).await.unwrap().unwrap();
    }
}
