//! How checks are served, and how the shared cache does.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use prometheus::{Gauge, HistogramVec, IntCounterVec, IntGauge, Registry};

use super::registration::{counters, histograms, milliseconds};
use crate::biz::{check::cache::Sources, values::money::Money};

pub struct CacheMetrics {
    /// By script: each call of one, and each pipeline of changes.
    script_ms: HistogramVec,
    /// 1 while every server of the shared cache answers; absent without one.
    redis_up: IntGauge,
    /// What differed between Redis and the database when they were last compared.
    redis_db_diff: Gauge,
    /// By source: near (memory), redis, database. A check with an API key may count twice.
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

    /// Has the gauges of the shared cache show: there is one.
    ///
    /// # Errors
    /// A name that prometheus refuses; only a defect.
    pub fn show_shared(&self) -> prometheus::Result<()> {
        self.registry.register(Box::new(self.redis_up.clone()))?;
        self.registry.register(Box::new(self.redis_db_diff.clone()))
    }

    /// Shows whether every server of the shared cache answers.
    pub fn set_redis_up(&self, is_up: bool) {
        self.redis_up.set(is_up.into());
    }

    /// Shows by how much Redis differed from the database: an amount and units.
    pub fn set_redis_difference(&self, amount: Money, units: u64) {
        self.redis_db_diff.set(amount.to_wire() + units as f64);
    }

    pub fn time_script(&self, script: &str, took: Duration) {
        self.script_ms.with_label_values(&[script]).observe(took.as_secs_f64() * 1000.0);
    }

    /// Brings the counts of reads up to date.
    pub fn count_reads(&self, sources: &Sources) {
        for (source, total) in [("near", &sources.near), ("redis", &sources.shared), ("database", &sources.database)] {
            let counter = self.reads.with_label_values(&[source]);
            counter.inc_by(total.load(Relaxed).saturating_sub(counter.get()));
        }
    }
}
