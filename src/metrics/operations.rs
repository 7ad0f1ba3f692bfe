//! Times and amounts by operation, shared by the metrics of several features.

use std::time::Duration;

use prometheus::{CounterVec, HistogramVec, IntCounterVec, Registry, Result};

use super::{
    registration::{amounts, counters, histograms},
    scale::milliseconds,
};
use crate::biz::values::money::Money;

/// `billing_duration_ms` by operation: check, deduct, reserve, commit, release, adjust, refund.
#[derive(Clone)]
pub(super) struct OperationTimes(HistogramVec);

impl OperationTimes {
    pub fn new(registry: &Registry) -> Result<Self> {
        let help = "Time of an operation in milliseconds";
        Ok(Self(histograms(registry, "billing_duration_ms", help, &["operation"], milliseconds())?))
    }

    pub fn observe(&self, operation: &str, took: Duration) {
        self.0.with_label_values(&[operation]).observe(took.as_secs_f64() * 1000.0);
    }
}

/// Changes of balances by operation: deduct (commits too), recharge, recharge_refund,
/// recharge_chargeback, refund, adjust_credit, adjust_debit.
#[derive(Clone)]
pub(super) struct BalanceMetrics {
    changes: IntCounterVec,
    amount: CounterVec,
}

impl BalanceMetrics {
    pub fn new(registry: &Registry) -> Result<Self> {
        let labels = &["operation"];
        Ok(Self {
            changes: counters(registry, "billing_balance_total", "Changes of balances", labels)?,
            amount: amounts(registry, "billing_balance_amount", "Amounts moved to or from balances", labels)?,
        })
    }

    /// Counts one change of a balance. `amount` is not negative.
    pub fn count(&self, operation: &str, amount: Money) {
        self.changes.with_label_values(&[operation]).inc();
        self.amount.with_label_values(&[operation]).inc_by(amount.to_wire());
    }
}
