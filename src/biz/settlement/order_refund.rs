//! A refund of a top-up order: money of a credited order that goes back to its payer.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::biz::values::{
    ids::{OrderId, RefundId, UserId},
    invalid::Invalid,
    money::Money,
};

/// A refund or chargeback of an order. `id` is unique among all orders, because payment-service finds
/// a refund by it alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderRefund {
    pub id: RefundId,
    pub order: OrderId,
    pub user: UserId,
    pub kind: RefundKind,
    pub status: RefundStatus,
    pub amount: Money,
    /// The amount of the request; `None` if the request asked for all that was left.
    pub asked: Option<Money>,
    /// Whether the request allowed a balance below zero.
    pub is_forced: bool,
    /// Empty for refunds that payment-service reported.
    pub reason: String,
    /// The id of the request that made the refund, with the purpose of
    /// [`super::posting::Charge::record_ids`].
    pub request: Uuid,
    /// The balance after the last step.
    pub balance_after: Money,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// The time of the debit; `None` before it.
    pub settled_at: Option<DateTime<Utc>>,
}

/// The origin of a refund.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefundKind {
    /// Requested here. The amount is held until payment-service decides.
    Requested,
    /// Made at payment-service without a request, and reported.
    Reported,
    /// Taken back by the payer's bank, and reported.
    Chargeback,
}

impl RefundKind {
    const ALL: [Self; 3] = [Self::Requested, Self::Reported, Self::Chargeback];

    /// The name in the tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Reported => "reported",
            Self::Chargeback => "chargeback",
        }
    }
}

impl FromStr for RefundKind {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let known = Self::ALL.into_iter().find(|kind| kind.name() == text);
        known.ok_or_else(|| Invalid::new("kind", "must be requested, reported or chargeback"))
    }
}

/// The states of a refund. SUCCESS is final: the balance is debited. FAILED still changes to SUCCESS if
/// the money goes back after all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefundStatus {
    Pending,
    Success,
    Failed,
}

impl RefundStatus {
    const ALL: [Self; 3] = [Self::Pending, Self::Success, Self::Failed];

    /// The name in the tables and on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Success => "success",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for RefundStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for RefundStatus {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let known = Self::ALL.into_iter().find(|status| status.name() == text);
        known.ok_or_else(|| Invalid::new("status", "must be pending, success or failed"))
    }
}

/// The caller's side of a refund. A retry must repeat all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderRefundContent {
    pub order: OrderId,
    /// `None` for all that is left of the order.
    pub amount: Option<Money>,
    pub reason: String,
    /// Takes the balance below zero if less than the amount is free.
    pub is_forced: bool,
}

impl OrderRefundContent {
    /// The request fields in which this request differs from the one that made `first`.
    pub fn differences(&self, first: &OrderRefund) -> Vec<&'static str> {
        let is_same_amount = self.amount == first.asked || self.amount == Some(first.amount);
        [
            ("order_id", self.order != first.order),
            ("amount", !is_same_amount),
            ("reason", self.reason != first.reason),
            ("force", self.is_forced != first.is_forced),
        ]
        .into_iter()
        .filter_map(|(field, differs)| differs.then_some(field))
        .collect()
    }
}
