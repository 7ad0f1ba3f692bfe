//! A settlement file: its lines, and the sums of its comparison.

use std::collections::HashMap;

use chrono::NaiveDate;

use crate::biz::values::{
    calendar::DaySpan,
    ids::{OrderId, PaymentId},
    money::Money,
};

/// A line of a settlement file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettlementLine {
    /// From 1.
    pub number: u64,
    pub order: OrderId,
    /// `None` if the line names no payment.
    pub payment: Option<PaymentId>,
    /// Below zero for a refund or chargeback.
    pub amount: Money,
    pub fee: Money,
    pub day: NaiveDate,
}

/// The refunds of a file by order and amount.
pub(super) type Refunds<'l> = HashMap<(OrderId, Money), Vec<&'l SettlementLine>>;

/// The sums of a comparison.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Matched {
    pub lines: u64,
    pub matched: u64,
    /// Lines of the file without a match in the database.
    pub missing_here: u64,
    /// Top-ups, refunds and credited unapplied payments of the database without a line in the file.
    pub missing_there: u64,
    /// Lines whose amount or payment differs.
    pub differing: u64,
    pub amount: Money,
    pub fee: Money,
    pub days: Option<DaySpan>,
}

impl Matched {
    pub fn is_good(&self) -> bool {
        self.missing_here + self.missing_there + self.differing == 0
    }
}
