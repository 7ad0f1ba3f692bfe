//! Counts the outcomes of charges. Services and jobs that only count hold a [`ChargeObserver`].

use std::{sync::Arc, time::Duration};

use super::{
    Metrics,
    charges::Operation,
    in_flight::InFlight,
    labels::{Failure, service_label},
};
use crate::biz::{
    account::catalog::Catalog,
    charge::Split,
    metering::Comparison,
    settlement::{posting::Effect, transaction::Transaction},
    values::{error::Error, ids::ModelName, money::Money},
};

/// Counts the outcomes of charges, reservations, streams and adjustments.
#[derive(Clone)]
pub struct ChargeObserver {
    metrics: Arc<Metrics>,
    catalog: Arc<Catalog>,
    /// `billing.usage_sanity`.
    usage_sanity: u32,
}

/// The outcome of a charge or a commit, as [`ChargeObserver`] counts it.
pub type Outcome<'s> = Result<(&'s Transaction, Effect), Failure<'s>>;

impl ChargeObserver {
    pub fn new(metrics: Arc<Metrics>, catalog: Arc<Catalog>, usage_sanity: u32) -> Self {
        Self { metrics, catalog, usage_sanity }
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
                    Effect::Applied => {
                        if transaction.reservation.is_none() && !transaction.shortfall.is_zero() {
                            self.metrics.streams.shortfall(transaction.shortfall);
                        }
                        self.count_charge(transaction, transaction.split());
                    }
                    Effect::Added { split, .. } => self.count_charge(transaction, split),
                    Effect::Unchanged => charges.idempotent_hit.inc(),
                }
            }
            Err(failure) => {
                charges.count_repeat(Err(failure.error));
                charges.deduct_failure.with_label_values(&[&failure.label()]).inc();
            }
        }
    }

    fn count_charge(&self, transaction: &Transaction, split: Split) {
        if transaction.is_suspicious(self.usage_sanity) {
            self.metrics.charges.usage_suspicious.inc();
            let model = transaction.content.model.as_ref().map(ModelName::as_str).unwrap_or_default();
            tracing::warn!(model, trace_id = %transaction.trace, "usage far beyond the expected one charged");
        }
        let kind = match (split.free, split.is_paid()) {
            // All of the addition fell short.
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

    /// Counts the outcome of a commit, by a caller, a stream or the sweep.
    pub fn count_commit(&self, outcome: Outcome<'_>) {
        match &outcome {
            Ok((transaction, Effect::Applied)) => {
                self.metrics.charges.committed.inc();
                self.metrics.streams.shortfall(transaction.shortfall);
            }
            Ok((_, Effect::Added { shortfall, .. })) => self.metrics.streams.shortfall(*shortfall),
            Ok((_, Effect::Unchanged)) => {}
            Err(_) => self.metrics.charges.commit_failed.inc(),
        }
        self.count_deduct(outcome);
    }

    /// Counts a reservation that expired or whose stream broke: it is charged or freed.
    pub fn count_ended(&self, ended: &Transaction, effect: Effect) {
        if ended.is_committed() && effect != Effect::Unchanged {
            self.count_commit(Ok((ended, effect)));
        }
    }

    /// Counts an open stream until the returned guard is dropped.
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

    /// Counts the outcome of a refund: its amount, and whether it is a repeat.
    pub fn count_refund(&self, outcome: Result<(Money, bool), &Error>, took: Duration) {
        let charges = &self.metrics.charges;
        charges.times.observe("refund", took);
        charges.count_repeat(outcome.map(|(_, is_repeat)| is_repeat));
        if let Ok((amount, false)) = outcome
            && !amount.is_zero()
        {
            charges.balances.count("refund", amount);
        }
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
