//! Shows the counts of accounts with a low balance or quota in the metrics. One server counts at a time, for all.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    biz::{
        account::catalog::Catalog,
        jobs::{
            low_balance::{KeptCounts, LowBalanceStore, Thresholds, basis},
            runs::{Run, RunStore, in_time, under_lease},
        },
        values::{calendar::Calendar, error::StoreError},
    },
    metrics::Metrics,
};

/// Interval at which a server reads the counts, and the shortest time between two counts.
const PAUSE: Duration = Duration::from_secs(60);
/// Pause while another server makes the first count.
const SOON: Duration = Duration::from_secs(1);
/// The pause after a count is at least this many times its duration, because a count reads all
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
    /// their values.
    pub(super) async fn show_regularly(self, stop: CancellationToken) {
        let showing = async {
            loop {
                let shown = self.show().await.unwrap_or_else(|error| {
                    tracing::warn!(%error, "count of low accounts failed; the gauges keep their values");
                    true
                });
                sleep(if shown { PAUSE } else { SOON }).await;
            }
        };
        stop.run_until_cancelled(showing).await;
    }

    /// False if another server makes the first count.
    async fn show(&self) -> Result<bool, StoreError> {
        let basis = basis(self.thresholds, self.calendar.now().month);
        let mut kept = in_time(self.store.kept_counts(&basis)).await?;
        if self.is_due(kept.as_ref()) {
            // A run by hand leaves no row of its period. Whether the count is due is asked again under the lease.
            let run = Run { job: JOB, period: basis.clone(), is_by_hand: true, owner: self.owner.clone() };
            if let Some(counted) = under_lease(&*self.store, &run, self.count(&basis)).await? {
                kept = Some(counted?);
            }
        }
        if let Some(kept) = &kept {
            self.metrics.low.set(&kept.counts, &self.catalog, kept.counted_at);
        }
        Ok(kept.is_some())
    }

    fn is_due(&self, kept: Option<&KeptCounts>) -> bool {
        kept.is_none_or(|kept| kept.due_at <= self.calendar.now().utc)
    }

    /// Counts and stores the counts, unless another server did so before the lease was taken.
    async fn count(&self, basis: &str) -> Result<KeptCounts, StoreError> {
        if let Some(kept) = self.store.kept_counts(basis).await?
            && !self.is_due(Some(&kept))
        {
            return Ok(kept);
        }
        let (began, now) = (Instant::now(), self.calendar.now());
        let counting = self.store.count_low(self.thresholds, now.month, TIMEOUT);
        let counts = timeout(TIMEOUT, counting)
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable(format!("no answer in {TIMEOUT:?}").into())))?;
        let pause = (began.elapsed() * SHARE).max(PAUSE);
        let pause = TimeDelta::from_std(pause).unwrap_or_default();
        let kept = KeptCounts { counts, counted_at: now.utc, due_at: self.calendar.now().utc + pause };
        self.store.keep_counts(basis, &kept).await?;
        Ok(kept)
    }
}

#[cfg(test)]
mod tests;
