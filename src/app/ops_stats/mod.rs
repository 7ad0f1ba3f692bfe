//! Reads the operators' figures from the database at intervals, for the metrics.

use std::{sync::Arc, time::Duration};

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    biz::{
        jobs::{
            audit,
            ops_stats::{FAILED_WITHIN, OpsStatsStore, PENDING_FOR},
        },
        values::{calendar::Calendar, error::StoreError},
    },
    metrics::Metrics,
};

/// Pause between two readings. A reading takes six cheap queries.
const PAUSE: Duration = Duration::from_secs(60);
/// Deadline of a query.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Reads the figures from `store`, and sets the gauges in `metrics`.
pub(super) struct OpsStats {
    pub store: Arc<dyn OpsStatsStore>,
    pub calendar: Arc<Calendar>,
    pub metrics: Arc<Metrics>,
}

impl OpsStats {
    /// Reads at once and then at intervals, until `stop`. After a failed query its gauge keeps the
    /// value.
    pub(super) async fn read_regularly(self, stop: CancellationToken) {
        let reading = async {
            loop {
                if let Err(error) = in_time(self.read_audit()).await {
                    tracing::warn!(%error, "result of the last audit could not be read; the gauge keeps its value");
                }
                if let Err(error) = in_time(self.count_pending()).await {
                    tracing::warn!(%error, "count of old pending top-ups failed; the gauge keeps its value");
                }
                if let Err(error) = in_time(self.count_failed_refunds()).await {
                    tracing::warn!(%error, "count of failed refunds failed; the gauge keeps its value");
                }
                if let Err(error) = in_time(self.count_unapplied()).await {
                    tracing::warn!(%error, "count of unapplied payments failed; the gauge keeps its value");
                }
                if let Err(error) = in_time(self.measure_feed()).await {
                    tracing::warn!(%error, "size of the feed of events could not be read; the gauges keep their values");
                }
                sleep(PAUSE).await;
            }
        };
        stop.run_until_cancelled(reading).await;
    }

    async fn read_audit(&self) -> Result<(), StoreError> {
        let nightly = self.store.last_audit(audit::JOB).await?;
        let whole = self.store.last_audit(audit::WHOLE_JOB).await?;
        self.metrics.ops_stats.set_audits(nightly.as_ref(), whole.as_ref());
        Ok(())
    }

    async fn count_failed_refunds(&self) -> Result<(), StoreError> {
        let refunds = self.store.count_failed_refunds(self.calendar.now().utc - FAILED_WITHIN).await?;
        self.metrics.ops_stats.set_failed_refunds(refunds);
        Ok(())
    }

    async fn count_unapplied(&self) -> Result<(), StoreError> {
        let payments = self.store.count_unapplied().await?;
        self.metrics.ops_stats.set_unapplied(payments);
        Ok(())
    }

    async fn measure_feed(&self) -> Result<(), StoreError> {
        let size = self.store.feed_size().await?;
        self.metrics.events.set_size(&size);
        Ok(())
    }

    async fn count_pending(&self) -> Result<(), StoreError> {
        let orders = self.store.count_pending(self.calendar.now().utc - PENDING_FOR).await?;
        self.metrics.ops_stats.set_pending(orders);
        Ok(())
    }
}

async fn in_time(reading: impl Future<Output = Result<(), StoreError>>) -> Result<(), StoreError> {
    let late = |_| Err(StoreError::Unavailable(format!("no answer in {TIMEOUT:?}").into()));
    timeout(TIMEOUT, reading).await.unwrap_or_else(late)
}

#[cfg(test)]
mod tests;
