//! Refunds of charges: their content, and their stored outcome.

use chrono::{DateTime, NaiveDate, Utc};

use crate::biz::values::{
    ids::{RefundId, TraceId, UserId},
    money::Money,
};

/// The caller's side of a refund. A retry must repeat all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefundContent {
    /// The charge.
    pub trace: TraceId,
    /// The refunded units; `None` means all that are left.
    pub count: Option<u32>,
    pub reason: String,
}

impl RefundContent {
    /// The request fields in which two contents differ.
    pub fn differences(&self, other: &RefundContent) -> Vec<&'static str> {
        [
            ("trace_id", self.trace != other.trace),
            ("count", self.count != other.count),
            ("reason", self.reason != other.reason),
        ]
        .into_iter()
        .filter_map(|(field, differs)| differs.then_some(field))
        .collect()
    }
}

/// Units and money that refunds have taken from a charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RefundedPart {
    /// Refunded free units, also those whose month was over, and that no quota got back.
    pub free: u32,
    pub paid: u32,
    pub amount: Money,
}

impl RefundedPart {
    pub fn units(self) -> u32 {
        self.free.saturating_add(self.paid)
    }
}

/// `whole * part / of`, rounded to the nearest, halves up. `part` is at most `of`.
pub fn share(whole: i64, part: u32, of: u32) -> i64 {
    let (product, of) = (i128::from(whole) * i128::from(part), i128::from(of.max(1)));
    // At most `whole`.
    ((2 * product + of) / (2 * of)) as i64
}

/// A settled refund, as stored and as answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refunded {
    pub user: UserId,
    pub id: RefundId,
    pub content: RefundContent,
    /// The main record id of its request.
    pub request: uuid::Uuid,
    /// Free units that the quota of the charge's month got back.
    pub free: u32,
    /// Free units that no quota got back, because the month of the charge was over.
    pub lapsed: u32,
    pub paid: u32,
    pub amount: Money,
    /// All refunds of the charge up to this one.
    pub sum: RefundedPart,
    pub balance_after: Money,
    /// The billing day that it counts to.
    pub day: NaiveDate,
    pub created_at: DateTime<Utc>,
}
