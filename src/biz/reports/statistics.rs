//! Statistics: usage per service and day, always read from the daily rollup. The records are never
//! read, because a user may have millions of them.

use std::collections::BTreeMap;

use async_trait::async_trait;
use chrono::NaiveDate;

use crate::biz::values::{
    calendar::DaySpan,
    error::StoreError,
    ids::{ServiceName, UserId},
    money::Money,
};

/// Units and money of one or more days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    pub free_count: u64,
    pub paid_count: u64,
    pub amount: Money,
    /// Units and money that refunds have given back on these days. The other figures are gross.
    pub refunded_count: u64,
    pub refunded_amount: Money,
}

impl Totals {
    pub fn total_count(&self) -> u64 {
        self.free_count.saturating_add(self.paid_count)
    }
}

impl std::iter::Sum for Totals {
    fn sum<I: Iterator<Item = Totals>>(all: I) -> Totals {
        all.fold(Totals::default(), |sum, one| Totals {
            free_count: sum.free_count.saturating_add(one.free_count),
            paid_count: sum.paid_count.saturating_add(one.paid_count),
            amount: [sum.amount, one.amount].into_iter().sum(),
            refunded_count: sum.refunded_count.saturating_add(one.refunded_count),
            refunded_amount: [sum.refunded_amount, one.refunded_amount].into_iter().sum(),
        })
    }
}

/// Usage of one service on one day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DailyUse {
    pub service: ServiceName,
    pub day: NaiveDate,
    pub totals: Totals,
}

/// Reads the rollup.
#[async_trait]
pub trait Statistics: Send + Sync + 'static {
    /// Totals per service over the days of `span`; over all days for `None`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn totals(&self, user: &UserId, span: Option<DaySpan>) -> Result<BTreeMap<ServiceName, Totals>, StoreError>;

    /// The days of `span` with usage, ordered by service and day.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn daily(&self, user: &UserId, span: DaySpan) -> Result<Vec<DailyUse>, StoreError>;
}
