//! Counts the accounts with a low balance or quota at intervals, for the metrics.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    biz::{
        account::catalog::Catalog,
        jobs::low_balance::{LowBalanceStore, Thresholds},
        values::{calendar::Calendar, error::StoreError},
    },
    metrics::Metrics,
};

/// Shortest pause between two counts.
const PAUSE: Duration = Duration::from_secs(60);
/// The pause after a count is at least this many times its duration, because a count reads all
/// accounts.
const SHARE: u32 = 20;
/// Deadline of a count.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Counts low accounts in `store`, and sets the gauges in `metrics`.
pub(super) struct LowBalances {
    pub store: Arc<dyn LowBalanceStore>,
    pub thresholds: Thresholds,
    pub catalog: Arc<Catalog>,
    pub calendar: Arc<Calendar>,
    pub metrics: Arc<Metrics>,
}

impl LowBalances {
    /// Counts at once and then at intervals, until `stop`. After a failed count the gauges keep
    /// their values.
    pub(super) async fn count_regularly(self, stop: CancellationToken) {
        let counting = async {
            loop {
                let began = Instant::now();
                if let Err(error) = self.count().await {
                    tracing::warn!(%error, "count of low accounts failed; the gauges keep their values");
                }
                sleep(pause_after(began.elapsed())).await;
            }
        };
        stop.run_until_cancelled(counting).await;
    }

    async fn count(&self) -> Result<(), StoreError> {
        let now = self.calendar.now();
        let counting = self.store.count_low(self.thresholds, now.month, TIMEOUT);
        let counts = timeout(TIMEOUT, counting)
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable(format!("no answer in {TIMEOUT:?}").into())))?;
        self.metrics.low.set(&counts, &self.catalog, now.utc);
        Ok(())
    }
}

fn pause_after(took: Duration) -> Duration {
    (took * SHARE).max(PAUSE)
}

#[cfg(test)]
mod tests;
