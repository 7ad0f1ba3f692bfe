//! What a batch touches: everything to lock and load, each key once and in order.

use std::collections::BTreeSet;

use super::posting::{Batch, Posting};
use crate::biz::values::ids::{AdjustmentId, ApiKeyId, OrderId, PaymentId, ServiceName, TraceId, UserId};

/// The keys of a batch.
#[derive(Debug, Default)]
pub struct Keys<'a> {
    pub users: BTreeSet<&'a UserId>,
    /// Those of the users whose accounts must be there; what has a reservation had one.
    pub accounts: BTreeSet<&'a UserId>,
    /// Free quotas of the batch's month that must be there.
    pub quotas: BTreeSet<(&'a UserId, &'a ServiceName)>,
    /// Transactions that may be there.
    pub transactions: BTreeSet<(&'a UserId, &'a TraceId)>,
    /// Those of the transactions that end, or go on: what they hold may be another month's.
    pub ending: BTreeSet<(&'a UserId, &'a TraceId)>,
    /// Adjustments that may be there.
    pub adjustments: BTreeSet<(&'a UserId, &'a AdjustmentId)>,
    /// Keys that may have quotas; those of what ends stand in the transactions.
    pub api_keys: BTreeSet<&'a ApiKeyId>,
    /// Orders that may be there.
    pub orders: BTreeSet<&'a OrderId>,
    /// Payments that an order may have.
    pub payments: BTreeSet<&'a PaymentId>,
}

impl<'a> Keys<'a> {
    pub fn of(batch: &'a Batch) -> Self {
        let mut keys = Self::default();
        for posting in &batch.postings {
            let user = posting.user();
            keys.users.insert(user);
            if !matches!(posting, Posting::Report(_) | Posting::Commit(_) | Posting::Release(_) | Posting::Expire(_)) {
                keys.accounts.insert(user);
            }
            match posting {
                Posting::Open(_) => keys.quotas.extend(batch.catalog.services().map(|service| (user, service))),
                Posting::Charge(call) => {
                    keys.quotas.insert((user, &call.content.service));
                    keys.transactions.insert((user, &call.trace));
                    keys.api_keys.extend(&call.content.api_key);
                }
                Posting::Reserve(reserve) => {
                    keys.quotas.insert((user, &reserve.call.content.service));
                    keys.transactions.insert((user, &reserve.call.trace));
                    keys.api_keys.extend(&reserve.call.content.api_key);
                }
                Posting::Report(report) => keys.end(user, &report.trace),
                Posting::Commit(commit) => keys.end(user, &commit.trace),
                Posting::Release(release) => keys.end(user, &release.trace),
                Posting::Expire(expire) => keys.end(user, &expire.trace),
                Posting::Adjust(adjustment) => drop(keys.adjustments.insert((user, &adjustment.id))),
                Posting::UpdateOrder(update) => {
                    keys.orders.insert(&update.order);
                    keys.payments.extend(update.payment_update.payment());
                }
            }
        }
        keys
    }

    fn end(&mut self, user: &'a UserId, trace: &'a TraceId) {
        self.transactions.insert((user, trace));
        self.ending.insert((user, trace));
    }
}
