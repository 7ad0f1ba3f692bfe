//! Charges, reservations and adjustments, by outcome.

use std::{sync::Arc, time::Duration};

use prometheus::{Histogram, IntCounter, IntCounterVec, Registry};

use super::{
    Failure, Metrics, OVERLOADED,
    in_flight::{InFlight, Operation},
    operations::{BalanceMetrics, OperationTimes},
    registration::{SECONDS, counter, counters, histogram},
    service_label,
};
use crate::biz::{
    account::catalog::Catalog,
    charge::Split,
    metering::Comparison,
    settlement::{posting::Effect, transaction::Transaction},
    values::{error::Error, money::Money},
};

/// Reasons for which a charge fails by the service's own doing. All others are refusals,
/// which the caller or the user brought about.
pub const FAILURES: [&str; 2] = [OVERLOADED, "internal"];

pub struct ChargeMetrics {
    /// By service and type: free, balance, mixed.
    deduct_total: IntCounterVec,
    deduct_duration_seconds: Histogram,
    deduct_success: IntCounter,
    /// By reason, as in the error table, in lower case; [`FAILURES`] and refusals.
    deduct_failure: IntCounterVec,
    /// As [`Self::deduct_failure`], of reserves and of streams that open.
    reserve_failure: IntCounterVec,
    idempotent_hit: IntCounter,
    idempotent_conflict: IntCounter,
    reserved: IntCounter,
    committed: IntCounter,
    commit_failed: IntCounter,
    balances: BalanceMetrics,
    times: OperationTimes,
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
            // Shown from the start: a rate does not see the step to a counter's first value.
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

    fn count_repeat(&self, outcome: Result<bool, &Error>) {
        match outcome {
            Ok(true) => self.idempotent_hit.inc(),
            Err(Error::IdempotencyConflict { .. }) => self.idempotent_conflict.inc(),
            _ => {}
        }
    }
}

/// Counts the outcomes of charges, reservations, streams and adjustments.
#[derive(Clone)]
pub struct ChargeObserver {
    metrics: Arc<Metrics>,
    catalog: Arc<Catalog>,
}

/// The outcome of a charge or a commit, as [`ChargeObserver`] counts it.
pub type Outcome<'s> = Result<(&'s Transaction, Effect), Failure<'s>>;

impl ChargeObserver {
    pub fn new(metrics: Arc<Metrics>, catalog: Arc<Catalog>) -> Self {
        Self { metrics, catalog }
    }

    /// Times an operation, and counts it as a failure if it is dropped before its outcome.
    pub fn begin(&self, operation: Operation) -> InFlight<'_> {
        InFlight::begin(&self.metrics.charges, operation)
    }

    /// Counts the outcome of a charge, made at once or by a commit.
    pub fn count_deduct(&self, outcome: Outcome<'_>) {
        let charges = &self.metrics.charges;
        match outcome {
            Ok((transaction, effect)) => {
                charges.deduct_success.inc();
                match effect {
                    Effect::Made => self.count_charge(transaction, transaction.split()),
                    Effect::Added { split, .. } => self.count_charge(transaction, split),
                    Effect::Found => charges.idempotent_hit.inc(),
                }
            }
            Err(failure) => {
                charges.count_repeat(Err(failure.error));
                charges.deduct_failure.with_label_values(&[&failure.label()]).inc();
            }
        }
    }

    fn count_charge(&self, transaction: &Transaction, split: Split) {
        let kind = match (split.free, split.is_paid()) {
            // All that was to be added fell short.
            (0, false) => return,
            (_, false) => "free",
            (0, true) => "balance",
            _ => "mixed",
        };
        let service = service_label(&self.catalog, transaction.content.service.as_str());
        self.metrics.charges.deduct_total.with_label_values(&[service, kind]).inc();
        if !split.amount.is_zero() {
            self.metrics.charges.balances.count("deduct", split.amount);
        }
    }

    /// Counts the outcome of a reserve, also of one that opens a stream: whether it is a repeat.
    pub fn count_reserve(&self, outcome: Result<bool, Failure<'_>>) {
        let charges = &self.metrics.charges;
        charges.count_repeat(outcome.as_ref().map(|is_repeat| *is_repeat).map_err(|failure| failure.error));
        match outcome {
            Ok(false) => charges.reserved.inc(),
            Ok(true) => {}
            Err(failure) => charges.reserve_failure.with_label_values(&[&failure.label()]).inc(),
        }
    }

    /// Counts the outcome of a commit, whoever asked for it.
    pub fn count_commit(&self, outcome: Outcome<'_>) {
        match &outcome {
            Ok((transaction, Effect::Made)) => {
                self.metrics.charges.committed.inc();
                self.metrics.streams.shortfall(transaction.shortfall);
            }
            Ok((_, Effect::Added { shortfall, .. })) => self.metrics.streams.shortfall(*shortfall),
            Ok((_, Effect::Found)) => {}
            Err(_) => self.metrics.charges.commit_failed.inc(),
        }
        self.count_deduct(outcome);
    }

    /// Counts a reservation that expired or whose stream broke: it is charged or freed.
    pub fn count_ended(&self, ended: &Transaction, effect: Effect) {
        if ended.is_committed() && effect != Effect::Found {
            self.count_commit(Ok((ended, effect)));
        }
    }

    /// Counts an open stream until what it returns is dropped.
    pub fn open_stream(&self) -> impl Drop + use<> {
        self.metrics.streams.open()
    }

    /// Counts how far our count of tokens is from the vendor's.
    pub fn count_comparison(&self, compared: Comparison) {
        self.metrics.streams.compare(compared);
    }

    /// Counts the outcome of a release: whether it is a repeat.
    pub fn count_release(&self, outcome: Result<bool, &Error>, took: Duration) {
        self.metrics.charges.times.observe("release", took);
        self.metrics.charges.count_repeat(outcome);
    }

    /// Counts the outcome of an adjustment by `amount`: whether it is a repeat.
    pub fn count_adjustment(&self, outcome: Result<bool, &Error>, amount: Money, took: Duration) {
        let charges = &self.metrics.charges;
        charges.times.observe("adjust", took);
        charges.count_repeat(outcome);
        if outcome == Ok(false) {
            let (operation, size) =
                if amount.is_negative() { ("adjust_debit", -amount) } else { ("adjust_credit", amount) };
            charges.balances.count(operation, size);
        }
    }
}
