//! The rows of all accounts, for exports from which an accountant can recompute every statement.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::biz::{
    reports::record::Record,
    settlement::{order::Order, order_refund::OrderRefund, posting::Adjusted},
    values::{error::StoreError, ids::UserId, paging::Cursor},
};

/// A record and its user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRecord {
    pub user: UserId,
    pub record: Record,
    /// Whether the usage is that of the last report of a stream that broke. Its commit may still change it, so
    /// statements do not count it.
    pub is_reported: bool,
}

/// The records to read: of some users, and within a time.
#[derive(Debug, Clone, Copy)]
pub struct RecordSpan<'s> {
    /// In key order, not empty.
    pub users: &'s [UserId],
    /// The first instant, and the first instant after the records.
    pub between: (DateTime<Utc>, DateTime<Utc>),
    /// The last record that was read, which is of the first user.
    pub after: Option<&'s Cursor>,
}

/// The rows of another table to read: of some users, and whose billing time is within a time.
#[derive(Debug, Clone, Copy)]
pub struct RowSpan<'s> {
    /// In key order, not empty.
    pub users: &'s [UserId],
    /// The first instant, and the first instant after the rows.
    pub between: (DateTime<Utc>, DateTime<Utc>),
    /// The id of the last row that was read, which is of the first user.
    pub after: Option<&'s str>,
}

/// Reads the rows of all accounts, some users at a time. Each call reads a bounded number of rows. Of each
/// user it reads the range of an index: rows of other times are mostly not read.
#[async_trait]
pub trait BookStore: Send + Sync + 'static {
    /// The next `limit` users after `after` (`None`: the first users) in key order; fewer at the end.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn users(&self, after: Option<&UserId>, limit: u32) -> Result<Vec<UserId>, StoreError>;

    /// As [`Self::users`], of the users with top-ups, who need no account before their first credit.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn payers(&self, after: Option<&UserId>, limit: u32) -> Result<Vec<UserId>, StoreError>;

    /// At most `limit` records of a span, by user, time and id. Records outside of the span are not read.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn records_of(&self, span: RecordSpan<'_>, limit: u32) -> Result<Vec<UserRecord>, StoreError>;

    /// At most `limit` orders of a span, by user and id. The time of an order is that of its credit, or of its
    /// creation before.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn orders_of(&self, span: RowSpan<'_>, limit: u32) -> Result<Vec<Order>, StoreError>;

    /// At most `limit` refunds of top-ups of a span, by user and id. The time of a refund is that of its
    /// debit, or of its creation before.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn order_refunds_of(&self, span: RowSpan<'_>, limit: u32) -> Result<Vec<OrderRefund>, StoreError>;

    /// At most `limit` adjustments of a span, by user and id.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn adjustments_of(&self, span: RowSpan<'_>, limit: u32) -> Result<Vec<Adjusted>, StoreError>;
}
