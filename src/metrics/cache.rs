//! Metrics of checks and of the shared cache.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use prometheus::{Gauge, HistogramVec, IntCounterVec, IntGauge, Registry};

use super::{
    registration::{counters, histograms},
    scale::milliseconds,
};
use crate::biz::{check::cache::Sources, values::money::Money};

pub struct CacheMetrics {
    /// By script; one observation per call, or per pipeline of changes. Milliseconds.
    script_ms: HistogramVec,
    /// 1 while all servers of the shared cache answer; absent without a shared cache.
    redis_up: IntGauge,
    /// Sum of the differences that the last comparison of Redis and database found.
    redis_db_diff: Gauge,
    /// By source: near (memory), redis, database. A check with an API key may count as two reads.
    reads: IntCounterVec,
    registry: Registry,
}

impl CacheMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let script_ms = histograms(
            registry,
            "redis_lua_script_duration_ms",
            "Time of a script in Redis in milliseconds",
            &["script"],
            milliseconds(),
        )?;
        let reads = counters(registry, "billing_check_reads_total", "Where checks read accounts", &["source"])?;
        let redis_up = IntGauge::new("billing_redis_up", "1 while the shared cache answers")?;
        let redis_db_diff = Gauge::new(
            "quota_redis_db_diff",
            "Amounts and units by which Redis differed from the database when they were last compared",
        )?;
        Ok(Self { script_ms, redis_up, redis_db_diff, reads, registry: registry.clone() })
    }

    /// Registers the gauges of the shared cache. Call it only if there is one.
    ///
    /// # Errors
    /// The registry refuses a name, which only a defect can cause.
    pub fn show_shared(&self) -> prometheus::Result<()> {
        self.registry.register(Box::new(self.redis_up.clone()))?;
        self.registry.register(Box::new(self.redis_db_diff.clone()))
    }

    /// Shows whether every server of the shared cache answers.
    pub fn set_redis_up(&self, is_up: bool) {
        self.redis_up.set(is_up.into());
    }

    /// Shows the difference between Redis and the database: an amount and units.
    pub fn set_redis_difference(&self, amount: Money, units: u64) {
        self.redis_db_diff.set(amount.to_wire() + units as f64);
    }

    pub fn time_script(&self, script: &str, took: Duration) {
        self.script_ms.with_label_values(&[script]).observe(took.as_secs_f64() * 1000.0);
    }

    /// Updates the read counters to `sources`.
    pub fn count_reads(&self, sources: &Sources) {
        for (source, total) in [("near", &sources.near), ("redis", &sources.shared), ("database", &sources.database)] {
            let counter = self.reads.with_label_values(&[source]);
            counter.inc_by(total.load(Relaxed).saturating_sub(counter.get()));
        }
    }
}
