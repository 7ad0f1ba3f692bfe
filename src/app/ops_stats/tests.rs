use std::sync::Mutex;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::*;
use crate::biz::{
    jobs::ops_stats::{FeedSize, FinishedAudit},
    values::calendar::SystemClock,
};

/// The outcome of a query.
#[derive(Clone, Copy)]
enum Answer {
    Counts(u64),
    Fails,
    NeverComes,
}
use Answer::{Counts, Fails, NeverComes};

/// Answers each kind of query in order. After the last answer, it never answers.
#[derive(Default)]
struct Script {
    audits: Mutex<Vec<Answer>>,
    pending: Mutex<Vec<Answer>>,
    unapplied: Mutex<Vec<Answer>>,
}

async fn next(answers: &Mutex<Vec<Answer>>) -> Result<u64, StoreError> {
    let answer = answers.lock().unwrap().pop();
    match answer.unwrap_or(NeverComes) {
        Counts(count) => Ok(count),
        Fails => Err(StoreError::Unavailable("down".into())),
        NeverComes => std::future::pending().await,
    }
}

#[async_trait]
impl OpsStatsStore for Script {
    async fn last_audit(&self, job: &str) -> Result<Option<FinishedAudit>, StoreError> {
        if job == audit::WHOLE_JOB {
            return Ok(None);
        }
        let differences = next(&self.audits).await?;
        Ok(Some(FinishedAudit { at: DateTime::UNIX_EPOCH, differences }))
    }

    async fn count_pending(&self, _: DateTime<Utc>) -> Result<u64, StoreError> {
        next(&self.pending).await
    }

    async fn count_failed_refunds(&self, _: DateTime<Utc>) -> Result<u64, StoreError> {
        Ok(0)
    }

    async fn count_unapplied(&self) -> Result<u64, StoreError> {
        next(&self.unapplied).await
    }

    async fn feed_size(&self) -> Result<FeedSize, StoreError> {
        Ok(FeedSize { head: 7, placed: 5, unplaced: 1, oldest: Some(DateTime::UNIX_EPOCH) })
    }
}

fn reading(mut audits: Vec<Answer>, mut pending: Vec<Answer>) -> (Arc<Metrics>, OpsStats) {
    audits.reverse();
    pending.reverse();
    let store =
        Arc::new(Script { audits: audits.into(), pending: pending.into(), unapplied: vec![Counts(2); 8].into() });
    let metrics = Arc::new(Metrics::new().unwrap());
    let calendar = Arc::new(Calendar::new(chrono_tz::UTC, SystemClock));
    (metrics.clone(), OpsStats { store, calendar, metrics })
}

/// The gauges of differences and of old pending top-ups.
fn shown(metrics: &Metrics) -> [Option<u64>; 2] {
    let text = String::from_utf8(metrics.render().unwrap()).unwrap();
    let find = |name| text.lines().find_map(|line| line.strip_prefix(name)).map(|count| count.parse().unwrap());
    [find("billing_ledger_differences "), find("billing_recharge_pending_old ")]
}

#[tokio::test(start_paused = true)]
async fn a_failed_query_keeps_its_gauge_and_does_not_stop_the_other() {
    let audits = vec![Fails, Counts(1), NeverComes, Counts(3)];
    let pending = vec![Counts(5), Fails, Counts(6), NeverComes];
    let (metrics, ops_stats) = reading(audits, pending);
    tokio::spawn(ops_stats.read_regularly(CancellationToken::new()));
    let mut seen = Vec::new();
    // The third reading begins after 120 s, and its first query times out after 10 s.
    for seconds in [1, 60, 70, 60] {
        sleep(Duration::from_secs(seconds)).await;
        seen.push(shown(&metrics));
    }
    let text = String::from_utf8(metrics.render().unwrap()).unwrap();
    for line in
        ["billing_unapplied_payments 2", "billing_events_kept 6", "billing_events_unread 1", "billing_events_head 7"]
    {
        assert!(text.lines().any(|shown| shown == line), "{line} in {text}");
    }
    assert_eq!(seen, [[None, Some(5)], [Some(1), Some(5)], [Some(1), Some(6)], [Some(3), Some(6)]]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_a_reading_and_the_pause_between_two() {
    for (audits, pending) in [(vec![], vec![]), (vec![Counts(0)], vec![Counts(0)])] {
        let (_, ops_stats) = reading(audits, pending);
        let stop = CancellationToken::new();
        let running = tokio::spawn(ops_stats.read_regularly(stop.clone()));
        sleep(Duration::from_secs(1)).await;
        stop.cancel();
        timeout(Duration::from_secs(1), running).await.unwrap().unwrap();
    }
}
