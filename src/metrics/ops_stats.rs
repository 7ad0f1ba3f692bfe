//! Operations' figures from the database, for alerts.

use prometheus::{IntGaugeVec, Opts, Registry};

use super::scale::gauge;
use crate::biz::jobs::ops_stats::FinishedAudit;

/// All gauges are vectors, so that they are absent before the first read. A zero would mean that
/// all is well.
pub struct OpsStatsMetrics {
    ledger_differences: IntGaugeVec,
    ledger_audited_timestamp_seconds: IntGaugeVec,
    ledger_audited_whole_timestamp_seconds: IntGaugeVec,
    recharge_pending_old: IntGaugeVec,
    recharge_refunds_failed: IntGaugeVec,
    unapplied_payments: IntGaugeVec,
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
                "Differences in the books that the last finished audit of the schedule found, nightly or whole",
            )?,
            ledger_audited_timestamp_seconds: gauges(
                "billing_ledger_audited_timestamp_seconds",
                "When the last nightly audit finished, in seconds since 1970",
            )?,
            ledger_audited_whole_timestamp_seconds: gauges(
                "billing_ledger_audited_whole_timestamp_seconds",
                "When the last whole audit finished, in seconds since 1970",
            )?,
            recharge_pending_old: gauges(
                "billing_recharge_pending_old",
                "Top-ups, and refunds of top-ups and of unapplied payments, that have been pending for more than an hour",
            )?,
            recharge_refunds_failed: gauges(
                "billing_recharge_refunds_failed",
                "Refunds of top-ups that payment-service refused or failed in the last day",
            )?,
            unapplied_payments: gauges(
                "billing_unapplied_payments",
                "Payments that were reported and not credited, and that wait for an operator",
            )?,
        })
    }

    /// Sets the differences and the times of the last finished audits. The whole audit finds the differences of the
    /// nightly one too, so the larger number counts.
    pub fn set_audits(&self, nightly: Option<&FinishedAudit>, whole: Option<&FinishedAudit>) {
        if let Some(differences) = nightly.into_iter().chain(whole).map(|audit| audit.differences).max() {
            self.ledger_differences.with_label_values::<&str>(&[]).set(gauge(differences));
        }
        for (audit, times) in
            [(nightly, &self.ledger_audited_timestamp_seconds), (whole, &self.ledger_audited_whole_timestamp_seconds)]
        {
            if let Some(audit) = audit {
                times.with_label_values::<&str>(&[]).set(audit.at.timestamp());
            }
        }
    }

    /// Sets the number of unapplied payments.
    pub fn set_unapplied(&self, payments: u64) {
        self.unapplied_payments.with_label_values::<&str>(&[]).set(gauge(payments));
    }

    /// Sets the number of refunds that failed lately.
    pub fn set_failed_refunds(&self, refunds: u64) {
        self.recharge_refunds_failed.with_label_values::<&str>(&[]).set(gauge(refunds));
    }

    /// Sets the number of top-ups that have been pending for long.
    pub fn set_pending(&self, orders: u64) {
        self.recharge_pending_old.with_label_values::<&str>(&[]).set(gauge(orders));
    }
}
