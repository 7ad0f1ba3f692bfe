//! Metrics of top-ups.

use std::time::Duration;

use prometheus::{CounterVec, Histogram, HistogramVec, IntCounter, IntCounterVec, Registry};

use super::{
    operations::BalanceMetrics,
    registration::{amounts, counter, counters, histogram, histograms},
};
use crate::biz::{
    recharge::{callback::SettledOrder, refund::RefundedOrder, request::Started, returned::SettledReturn},
    settlement::{
        order::{Order, OrderStatus},
        order_refund::RefundKind,
        unapplied::{UnappliedPayment, UnappliedStatus},
    },
    values::{
        error::{Error, Result},
        money::Money,
    },
};

/// Buckets in seconds. The last one exceeds the deadline of a call to payment-service.
const SECONDS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

pub struct RechargeMetrics {
    /// Callbacks by result: success (credited), failed, refunded, chargeback, repeated, refused, error
    /// (not settled).
    total: IntCounterVec,
    /// Amounts by status of the order: pending (requested), success (credited), failed.
    amount: CounterVec,
    /// By operation: recharge, callback.
    duration_seconds: HistogramVec,
    /// Orders by the status that they reach: pending, success, failed.
    order_total: IntCounterVec,
    order_create_duration_seconds: Histogram,
    failed_total: IntCounter,
    balances: BalanceMetrics,
}

impl RechargeMetrics {
    pub(super) fn new(registry: &Registry, balances: BalanceMetrics) -> prometheus::Result<Self> {
        let seconds = || SECONDS.to_vec();
        Ok(Self {
            total: counters(registry, "billing_recharge_total", "Callbacks of top-ups", &["status"])?,
            amount: amounts(registry, "billing_recharge_amount", "Amounts of top-ups", &["status"])?,
            duration_seconds: histograms(
                registry,
                "billing_recharge_duration_seconds",
                "Time of an operation on top-ups",
                &["operation"],
                seconds(),
            )?,
            order_total: counters(registry, "billing_recharge_order_total", "Orders", &["status"])?,
            order_create_duration_seconds: histogram(
                registry,
                "billing_recharge_order_create_duration_seconds",
                "Time until an order has its payment",
                seconds(),
            )?,
            failed_total: counter(registry, "billing_recharge_failed_total", "Top-ups that failed")?,
            balances,
        })
    }

    /// Counts a requested top-up and, if it has one, its order.
    pub fn count_start(&self, made: &Result<Started>, took: Duration) {
        self.duration_seconds.with_label_values(&["recharge"]).observe(took.as_secs_f64());
        let Ok(Started { order, page, is_new: true }) = made else { return };
        self.order_create_duration_seconds.observe(took.as_secs_f64());
        self.count_order(if page.is_ok() { OrderStatus::Pending } else { OrderStatus::Failed }, order.amount);
    }

    /// Counts a callback by its result, and the order by its new status.
    pub fn count_callback(&self, settled: &Result<SettledOrder>, took: Duration) {
        self.duration_seconds.with_label_values(&["callback"]).observe(took.as_secs_f64());
        if let Ok(SettledOrder { order, changed: true, .. }) = settled {
            self.count_order(order.status, order.amount);
            if order.status == OrderStatus::Success {
                self.balances.count("recharge", order.amount);
            }
        }
        let answer = match settled {
            Ok(SettledOrder { refusal: Some(refusal), .. }) => Err(refusal),
            Ok(settled) => Ok(settled),
            Err(error) => Err(error),
        };
        let result = match answer {
            Ok(SettledOrder { order, changed: true, .. }) => order.status.name(),
            Ok(_) => "repeated",
            Err(Error::Overloaded(_) | Error::PaymentUnavailable(_) | Error::Internal(_)) => "error",
            Err(_) => "refused",
        };
        self.total.with_label_values(&[result]).inc();
    }

    /// Counts a callback about money that went back by its result, and the debit.
    pub fn count_returned(&self, settled: &Result<SettledReturn>, took: Duration) {
        self.duration_seconds.with_label_values(&["callback"]).observe(took.as_secs_f64());
        let kind = match settled {
            Ok(SettledReturn::Order(refunded)) => {
                self.count_refund(refunded);
                Ok(refunded.changed.then_some(refunded.refund.kind))
            }
            Ok(SettledReturn::Unapplied(kind)) => Ok(*kind),
            Err(error) => Err(error),
        };
        let result = match kind {
            Ok(Some(RefundKind::Chargeback)) => "chargeback",
            Ok(Some(RefundKind::Requested | RefundKind::Reported)) => "refunded",
            Ok(None) => "repeated",
            Err(Error::Overloaded(_) | Error::PaymentUnavailable(_) | Error::Internal(_)) => "error",
            Err(_) => "refused",
        };
        self.total.with_label_values(&[result]).inc();
    }

    /// Counts the debit of a refund, if this change made it.
    pub fn count_refund(&self, refunded: &RefundedOrder) {
        let Some((kind, amount)) = refunded.debited() else { return };
        self.balances.count(
            match kind {
                RefundKind::Chargeback => "recharge_chargeback",
                RefundKind::Requested | RefundKind::Reported => "recharge_refund",
            },
            amount,
        );
    }

    /// Counts the credit of an unapplied payment, which is booked as an adjustment.
    pub fn count_resolution(&self, payment: &UnappliedPayment) {
        if payment.status == UnappliedStatus::Credited {
            self.balances.count("adjust_credit", payment.amount);
        }
    }

    /// Counts an order that a look-up at payment-service has brought into `status`.
    pub fn count_reconciled(&self, order: &Order, status: OrderStatus) {
        self.count_order(status, order.amount);
        if status == OrderStatus::Success {
            self.balances.count("recharge", order.amount);
        }
    }

    /// Counts a callback that names no order, or has no valid signature.
    pub fn count_refused(&self) {
        self.total.with_label_values(&["refused"]).inc();
    }

    fn count_order(&self, status: OrderStatus, amount: Money) {
        self.order_total.with_label_values(&[status.name()]).inc();
        self.amount.with_label_values(&[status.name()]).inc_by(amount.to_wire());
        if status == OrderStatus::Failed {
            self.failed_total.inc();
        }
    }
}
