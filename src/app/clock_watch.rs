//! Checks the clock of this process against the clock of the database: at the start, and at
//! intervals while the server runs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{anyhow, ensure};

use crate::{
    biz::{
        database::clock_skew::{DatabaseClock, Skew, measure},
        values::calendar::Clock,
    },
    config::Config,
    metrics::Metrics,
};

/// Time limit of a measurement. After a timeout, the next sweep measures again.
const MEASURE_TIMEOUT: Duration = Duration::from_secs(10);

/// Refuses a skew above `data.database.max_clock_skew`.
///
/// # Errors
/// The skew is too large; the error names the skew and the remedy. Or the database does not answer.
pub async fn ensure_clock_agrees<D: DatabaseClock + ?Sized>(
    config: &Config,
    database: &D,
    clock: &dyn Clock,
) -> anyhow::Result<Skew> {
    let measured = tokio::time::timeout(MEASURE_TIMEOUT, measure(database, clock)).await;
    let skew = measured.map_err(|_| anyhow!("the database did not return its time"))??;
    let max = config.data.database.max_clock_skew;
    ensure!(
        !skew.is_beyond(max),
        "the clock of this machine is {} the clock of the database, which decides when holds expire and days begin; \
         set both by NTP (config key data.database.max_clock_skew allows {max:?})",
        distance(skew)
    );
    Ok(skew)
}

fn distance(skew: Skew) -> String {
    let seconds = skew.ahead.as_seconds_f64();
    format!("{:.1} s {}", seconds.abs(), if seconds < 0.0 { "behind" } else { "ahead of" })
}

/// Measures the skew at intervals. Logs when it exceeds the limit, and when it is within the limit
/// again.
pub(super) struct ClockWatch {
    pub database: Arc<dyn DatabaseClock>,
    pub clock: Arc<dyn Clock>,
    pub max: Duration,
    pub metrics: Arc<Metrics>,
    /// Whether the last measured skew exceeds the limit.
    pub is_beyond: AtomicBool,
}

impl ClockWatch {
    /// Measures the skew. True if reservations that have expired by this clock may be ended. If the
    /// database does not answer, the last result stands.
    pub async fn agrees(&self) -> bool {
        let measured = tokio::time::timeout(MEASURE_TIMEOUT, measure(&*self.database, &*self.clock)).await;
        let Ok(Ok(skew)) = measured else {
            tracing::debug!("clock of the database not read; the last skew stands");
            return !self.is_beyond.load(Relaxed);
        };
        self.metrics.show_clock_skew(skew);
        let is_beyond = skew.is_beyond(self.max);
        match (self.is_beyond.swap(is_beyond, Relaxed), is_beyond) {
            (false, true) => tracing::error!(
                "the clock of this machine is {} the clock of the database; expired reservations are left alone until \
                 they agree",
                distance(skew)
            ),
            (true, false) => tracing::info!("the clock agrees with the clock of the database again"),
            _ => {}
        }
        !is_beyond
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicI64;

    use async_trait::async_trait;
    use chrono::{DateTime, TimeDelta, Utc};

    use super::*;
    use crate::biz::values::{calendar::SystemClock, error::StoreError};

    /// The lead of its clock in seconds; [`DOWN`] if it does not answer.
    struct Database(AtomicI64);

    const DOWN: i64 = i64::MAX;

    #[async_trait]
    impl DatabaseClock for Database {
        async fn database_time(&self) -> Result<Option<DateTime<Utc>>, StoreError> {
            match self.0.load(Relaxed) {
                DOWN => Err(StoreError::Unavailable("down".into())),
                ahead => Ok(Some(Utc::now() + TimeDelta::seconds(ahead))),
            }
        }
    }

    #[tokio::test]
    async fn nothing_is_swept_while_the_clocks_disagree() {
        let (database, metrics) = (Arc::new(Database(AtomicI64::new(0))), Arc::new(Metrics::new().unwrap()));
        let watch = ClockWatch {
            database: database.clone(),
            clock: Arc::new(SystemClock),
            max: Duration::from_secs(5),
            metrics: metrics.clone(),
            is_beyond: AtomicBool::new(false),
        };
        for (database_ahead, agrees) in
            [(0, true), (3_600, false), (DOWN, false), (-86_400, false), (-4, true), (DOWN, true)]
        {
            database.0.store(database_ahead, Relaxed);
            assert_eq!(watch.agrees().await, agrees, "{database_ahead}");
            if database_ahead != DOWN {
                let shown = metrics.clock_skew_seconds.get();
                assert!((shown + database_ahead as f64).abs() < 1.0, "{shown} for {database_ahead}");
            }
        }
    }
}
