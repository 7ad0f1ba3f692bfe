//! Charges, reservations and adjustments, by outcome.

use std::time::Duration;

use prometheus::{Histogram, IntCounter, IntCounterVec, Registry};

use super::{
    labels::{FAILURES, OVERLOADED},
    operations::{BalanceMetrics, OperationTimes},
    registration::{counter, counters, histogram},
    scale::SECONDS,
};
use crate::biz::values::error::Error;

/// An operation that charges or holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Deduct,
    Reserve,
    Commit,
}

impl Operation {
    /// The label of the operation.
    fn name(self) -> &'static str {
        match self {
            Self::Deduct => "deduct",
            Self::Reserve => "reserve",
            Self::Commit => "commit",
        }
    }
}

pub struct ChargeMetrics {
    /// By service and type: free, balance, mixed.
    pub(super) deduct_total: IntCounterVec,
    pub(super) deduct_duration_seconds: Histogram,
    pub(super) deduct_success: IntCounter,
    /// By reason of the error table in lower case: [`FAILURES`] and refusals.
    pub(super) deduct_failure: IntCounterVec,
    /// As [`Self::deduct_failure`], for reserves and openings of streams.
    pub(super) reserve_failure: IntCounterVec,
    pub(super) idempotent_hit: IntCounter,
    pub(super) usage_suspicious: IntCounter,
    pub(super) idempotent_conflict: IntCounter,
    pub(super) reserved: IntCounter,
    pub(super) committed: IntCounter,
    pub(super) commit_failed: IntCounter,
    pub(super) balances: BalanceMetrics,
    pub(super) times: OperationTimes,
}

impl ChargeMetrics {
    pub(super) fn new(
        registry: &Registry,
        balances: BalanceMetrics,
        times: OperationTimes,
    ) -> prometheus::Result<Self> {
        let deduct_failure = counters(registry, "billing_deduct_failure", "Charges refused or failed", &["reason"])?;
        let reserve_failure =
            counters(registry, "billing_reserve_failure_total", "Reserves refused or failed", &["reason"])?;
        for reason in FAILURES {
            // Created at the start, because rate() misses the step from no value to the first one.
            deduct_failure.with_label_values(&[reason]);
            reserve_failure.with_label_values(&[reason]);
        }
        let seconds = "billing_quota_deduct_duration_seconds";
        Ok(Self {
            deduct_total: counters(registry, "billing_quota_deduct_total", "Charges made", &["service", "type"])?,
            deduct_duration_seconds: histogram(registry, seconds, "Time of a charge", SECONDS.to_vec())?,
            deduct_success: counter(registry, "billing_deduct_success", "Charges acknowledged")?,
            deduct_failure,
            reserve_failure,
            idempotent_hit: counter(registry, "billing_idempotent_hit", "Retries answered with their first outcome")?,
            usage_suspicious: counter(
                registry,
                "billing_usage_suspicious",
                "Charges of a usage far beyond the estimate or the largest call of the model",
            )?,
            idempotent_conflict: counter(registry, "billing_idempotent_conflict", "Ids used again with other content")?,
            reserved: counter(registry, "billing_stream_pending_created", "Reservations made")?,
            committed: counter(registry, "billing_stream_committed", "Reservations committed")?,
            commit_failed: counter(
                registry,
                "billing_stream_failed",
                "Commits of reservations that were refused or failed",
            )?,
            balances,
            times,
        })
    }

    /// Observes the time of a finished charge, reserve or commit.
    pub(super) fn observe(&self, operation: Operation, took: Duration) {
        self.times.observe(operation.name(), took);
        if operation == Operation::Deduct {
            self.deduct_duration_seconds.observe(took.as_secs_f64());
        }
    }

    /// Counts an operation that ended without an outcome.
    pub(super) fn count_abandoned(&self, operation: Operation) {
        let failures = match operation {
            Operation::Deduct => &self.deduct_failure,
            Operation::Reserve => &self.reserve_failure,
            Operation::Commit => {
                self.commit_failed.inc();
                &self.deduct_failure
            }
        };
        failures.with_label_values(&[OVERLOADED]).inc();
    }

    /// Counts a repeat of a request, or an id that was used again with other content.
    pub(super) fn count_repeat(&self, outcome: Result<bool, &Error>) {
        match outcome {
            Ok(true) => self.idempotent_hit.inc(),
            Err(Error::IdempotencyConflict { .. }) => self.idempotent_conflict.inc(),
            _ => {}
        }
    }
}
