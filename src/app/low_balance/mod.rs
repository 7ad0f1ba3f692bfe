//! Shows the counts of accounts with a low balance or quota in the metrics. One server counts at a time, for all.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    biz::{
        account::catalog::Catalog,
        jobs::{
            low_balance::{Counted, LowBalanceStore, StoredCounts, Thresholds, basis},
            runs::{RunStore, in_time, under_lease},
        },
        values::{calendar::Calendar, error::StoreError},
    },
    metrics::Metrics,
};

/// Interval at which a server reads the counts, and the shortest time between two counts.
const PAUSE: Duration = Duration::from_secs(60);
/// Pause while another server makes the first count.
const SOON: Duration = Duration::from_secs(5);
/// The pause after a count, also a failed one, is at least this many times its duration, because a count reads all
/// accounts.
const SHARE: u32 = 20;
/// Deadline of a count, shorter than the longest work under a lease.
const TIMEOUT: Duration = Duration::from_secs(40);
/// The name of the lease.
const JOB: &str = "count-low";

/// Shows the counts of low accounts in `metrics`.
pub(super) struct LowBalances<S: ?Sized> {
    pub store: Arc<S>,
    pub thresholds: Thresholds,
    pub catalog: Arc<Catalog>,
    pub calendar: Arc<Calendar>,
    pub metrics: Arc<Metrics>,
    /// Id of the lease holder, unique among all processes.
    pub owner: String,
}

impl<S: LowBalanceStore + RunStore + ?Sized> LowBalances<S> {
    /// Shows the counts at once and then at intervals, until `stop`. After a failed count the gauges keep
    /// their values, and the next count of this server waits as after a good one.
    pub(super) async fn show_regularly(self, stop: CancellationToken) {
        let showing = async {
            loop {
                let began = Instant::now();
                let pause = match self.show().await {
                    Ok(true) => PAUSE,
                    Ok(false) => SOON,
                    Err(error) => {
                        tracing::warn!(%error, "count of low accounts failed; the gauges keep their values");
                        pause_after(began)
                    }
                };
                sleep(pause).await;
            }
        };
        stop.run_until_cancelled(showing).await;
    }

    /// False if another server makes the first count.
    async fn show(&self) -> Result<bool, StoreError> {
        let basis = basis(self.thresholds, self.calendar.now().month);
        let mut stored = in_time(self.store.stored_counts(&basis)).await?;
        if self.is_due(stored.as_ref()) {
            // Whether the count is due is asked again under the lease.
            if let Some(counted) = under_lease(&*self.store, JOB, &self.owner, self.count(&basis)).await? {
                stored = Some(counted?);
            }
        }
        if let Some(Counted { counts, at }) = stored.as_ref().and_then(|stored| stored.counted.as_ref()) {
            self.metrics.low.set(counts, &self.catalog, *at);
        }
        Ok(stored.is_some())
    }

    fn is_due(&self, stored: Option<&StoredCounts>) -> bool {
        stored.is_none_or(|stored| stored.due_at <= self.calendar.now().utc)
    }

    /// Counts and stores the counts, unless another server did so before the lease was taken.
    async fn count(&self, basis: &str) -> Result<StoredCounts, StoreError> {
        let stored = self.store.stored_counts(basis).await?;
        if let Some(stored) = stored.clone().filter(|stored| !self.is_due(Some(stored))) {
            return Ok(stored);
        }
        let (began, now) = (Instant::now(), self.calendar.now());
        let counting = self.store.count_low(self.thresholds, now.month, TIMEOUT);
        let counted = timeout(TIMEOUT, counting)
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable(format!("no answer in {TIMEOUT:?}").into())));
        let due_at = self.calendar.now().utc + TimeDelta::from_std(pause_after(began)).unwrap_or_default();
        let (failed, counted) = match counted {
            Ok(counts) => (None, Some(Counted { counts, at: now.utc })),
            // The last counts stay. A failure is stored even without any, so that the other servers wait too.
            Err(error) => (Some(error), stored.and_then(|last| last.counted)),
        };
        let stored = StoredCounts { counted, due_at };
        self.store.store_counts(basis, &stored).await?;
        failed.map_or(Ok(stored), Err)
    }
}

/// The pause after a count.
fn pause_after(began: Instant) -> Duration {
    (began.elapsed() * SHARE).max(PAUSE)
}

#[cfg(test)]
mod tests;
