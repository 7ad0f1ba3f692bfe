//! The rollup by service, model and API key.

use std::time::Duration;

use prometheus::{Gauge, IntCounter, Registry};

/// How far the rollup is behind, and its failures.
pub struct UseRollupMetrics {
    wait_seconds: Gauge,
    failures: IntCounter,
}

impl UseRollupMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let wait_seconds = Gauge::new(
            "billing_usage_rollup_wait_seconds",
            "How long the first of the users whose use by model and API key is behind has waited for its sums",
        )?;
        registry.register(Box::new(wait_seconds.clone()))?;
        let failures = IntCounter::new(
            "billing_usage_rollup_failures_total",
            "Failed attempts to sum the use of a user by model and API key",
        )?;
        registry.register(Box::new(failures.clone()))?;
        Ok(Self { wait_seconds, failures })
    }

    /// Shows the longest wait of a user.
    pub fn show_wait(&self, wait: Duration) {
        self.wait_seconds.set(wait.as_secs_f64());
    }

    pub fn count_failure(&self) {
        self.failures.inc();
    }
}
