//! The keys of a batch: every row to lock and load, each once and in order.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::posting::{Batch, Charge, Posting, RefusedCall};
use crate::biz::values::ids::{AdjustmentId, ApiKeyId, OrderId, PaymentId, RefundId, ServiceName, TraceId, UserId};

/// The keys of a batch.
#[derive(Debug, Default)]
pub struct Keys<'a> {
    pub users: BTreeSet<&'a UserId>,
    /// The users whose accounts must exist. The end of a reservation needs no check, because its
    /// reserve opened the account.
    pub accounts: BTreeSet<&'a UserId>,
    /// Free quotas of the batch's month that must exist.
    pub quotas: BTreeSet<(&'a UserId, &'a ServiceName)>,
    /// Transactions that may exist.
    pub transactions: BTreeSet<(&'a UserId, &'a TraceId)>,
    /// The reservations that end or report, and the charges that are refunded. Their free units may
    /// belong to another month.
    pub ending: BTreeSet<(&'a UserId, &'a TraceId)>,
    /// Adjustments that may exist.
    pub adjustments: BTreeSet<(&'a UserId, &'a AdjustmentId)>,
    /// Refunds that may exist.
    pub refunds: BTreeSet<(&'a UserId, &'a RefundId)>,
    /// Audit events that may exist, of calls whose repeat is not known by another row.
    pub audit_events: BTreeSet<Uuid>,
    /// Events that may exist, of stops that an earlier posting may have told of.
    pub events: BTreeSet<Uuid>,
    /// API keys that may have quotas. The API key of an ending reservation is in its transaction.
    pub api_keys: BTreeSet<&'a ApiKeyId>,
    /// Orders that may exist.
    pub orders: BTreeSet<&'a OrderId>,
    /// Payments that an order may already have.
    pub payments: BTreeSet<&'a PaymentId>,
    /// Refunds of orders that may exist.
    pub order_refunds: BTreeSet<&'a RefundId>,
    /// Payments that may be among the unapplied ones.
    pub unapplied: BTreeSet<&'a PaymentId>,
}

impl<'a> Keys<'a> {
    pub fn of(batch: &'a Batch) -> Self {
        let mut keys = Self::default();
        for posting in &batch.postings {
            let user = posting.user();
            keys.users.insert(user);
            keys.events.extend(posting.stop().map(|stop| stop.id));
            match posting {
                Posting::Open(_) => {
                    keys.accounts.insert(user);
                    keys.quotas.extend(batch.catalog.services().map(|service| (user, service)));
                }
                Posting::Charge(call) => keys.call(call),
                Posting::Reserve(reserve) => keys.call(&reserve.call),
                Posting::Report(report) => keys.end(user, &report.trace),
                Posting::Commit(commit) => keys.end(user, &commit.trace),
                Posting::Release(release) => keys.end(user, &release.trace),
                Posting::Expire(expire) => keys.end(user, &expire.trace),
                Posting::Adjust(adjustment) => {
                    keys.accounts.insert(user);
                    keys.adjustments.insert((user, &adjustment.id));
                }
                Posting::Refund(refund) => {
                    keys.end(user, &refund.content.trace);
                    keys.refunds.insert((user, &refund.id));
                }
                Posting::SetStatus(change) => {
                    keys.accounts.insert(user);
                    keys.audit_events.insert(change.call.id);
                }
                Posting::SetPlan(change) => {
                    keys.accounts.insert(user);
                    keys.audit_events.insert(change.call.id);
                }
                Posting::SetAlerts(change) => {
                    keys.accounts.insert(user);
                    keys.audit_events.insert(change.call.id);
                }
                Posting::NoteRefusal(RefusedCall { call }) => {
                    keys.accounts.insert(user);
                    keys.quotas.insert((user, &call.content.service));
                }
                Posting::UpdateOrder(update) => {
                    keys.accounts.insert(user);
                    keys.orders.insert(&update.order);
                    keys.payments.extend(update.payment_update.payment());
                    keys.unapplied.extend(posting.credited_payment());
                }
                Posting::RefundOrder(request) => {
                    keys.accounts.insert(user);
                    keys.orders.insert(&request.content.order);
                    keys.order_refunds.insert(&request.id);
                }
                Posting::UpdateOrderRefund(update) => {
                    keys.accounts.insert(user);
                    keys.orders.insert(&update.order);
                    keys.order_refunds.insert(&update.id);
                }
                Posting::CreditPayment(credit) => {
                    keys.accounts.insert(user);
                    keys.adjustments.insert((user, &credit.adjustment));
                    keys.payments.insert(&credit.payment);
                    keys.unapplied.insert(&credit.payment);
                }
            }
        }
        keys
    }

    /// Without a quote a call is refused unless it repeats another, and opens no account. Where there are
    /// plans, the plan of the user decides whether there is one.
    fn call(&mut self, call: &'a Charge) {
        self.transactions.insert((&call.user, &call.trace));
        if call.quote.is_ok() || call.tariff.is_some() {
            self.accounts.insert(&call.user);
            self.quotas.insert((&call.user, &call.content.service));
            self.api_keys.extend(&call.content.api_key);
        }
    }

    fn end(&mut self, user: &'a UserId, trace: &'a TraceId) {
        self.transactions.insert((user, trace));
        self.ending.insert((user, trace));
    }
}
