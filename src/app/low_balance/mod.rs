//! Counts low accounts regularly, for the metrics.

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

/// The least time between two counts.
const PAUSE: Duration = Duration::from_secs(60);
/// A count reads all accounts: it may take one part in so many of the database's time.
const SHARE: u32 = 20;
/// A count that takes longer is given up.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What is counted, and where it shows.
pub(super) struct LowBalances {
    pub store: Arc<dyn LowBalanceStore>,
    pub thresholds: Thresholds,
    pub catalog: Arc<Catalog>,
    pub calendar: Arc<Calendar>,
    pub metrics: Arc<Metrics>,
}

impl LowBalances {
    /// Counts now and then regularly, until `stop`. What can't be counted stays as it was.
    pub(super) async fn count_regularly(self, stop: CancellationToken) {
        let counting = async {
            loop {
                let began = Instant::now();
                if let Err(error) = self.count().await {
                    tracing::warn!(%error, "low accounts could not be counted");
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
            .unwrap_or_else(|_| Err(StoreError::Unavailable(format!("no answer in {TIMEOUT:?}"))))?;
        self.metrics.low.set(&counts, &self.catalog, now.utc);
        Ok(())
    }
}

fn pause_after(took: Duration) -> Duration {
    (took * SHARE).max(PAUSE)
}

#[cfg(test)]
mod tests;
