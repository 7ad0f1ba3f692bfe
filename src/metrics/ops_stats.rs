//! What only the database knows and operators are alerted to.

use prometheus::{IntGaugeVec, Opts, Registry};

use super::gauge;
use crate::biz::jobs::ops_stats::FinishedAudit;

/// Vectors all of them, so that nothing shows before it was read: zero would say that all is
/// well.
pub struct OpsStatsMetrics {
    ledger_differences: IntGaugeVec,
    ledger_audited_timestamp_seconds: IntGaugeVec,
    recharge_pending_old: IntGaugeVec,
}

impl OpsStatsMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let gauges = |name, help| {
            let gauges = IntGaugeVec::new(Opts::new(name, help), &[])?;
            registry.register(Box::new(gauges.clone()))?;
            Ok::<_, prometheus::Error>(gauges)
        };
        Ok(Self {
            ledger_differences: gauges(
                "billing_ledger_differences",
                "Differences in the books that the last finished audit of the schedule found",
            )?,
            ledger_audited_timestamp_seconds: gauges(
                "billing_ledger_audited_timestamp_seconds",
                "When that audit finished, in seconds since 1970",
            )?,
            recharge_pending_old: gauges(
                "billing_recharge_pending_old",
                "Top-ups that have been pending for more than an hour",
            )?,
        })
    }

    /// What the last audit found, and when.
    pub fn set_audit(&self, audit: &FinishedAudit) {
        self.ledger_differences.with_label_values::<&str>(&[]).set(gauge(audit.differences));
        self.ledger_audited_timestamp_seconds.with_label_values::<&str>(&[]).set(audit.at.timestamp());
    }

    /// How many top-ups have been pending for long.
    pub fn set_pending(&self, orders: u64) {
        self.recharge_pending_old.with_label_values::<&str>(&[]).set(gauge(orders));
    }
}
