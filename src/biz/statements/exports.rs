//! The rows of all accounts, for exports from which an accountant can recompute every statement.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::biz::{
    reports::record::Record,
    settlement::{order::Order, order_refund::OrderRefund, posting::Adjusted},
    values::{
        error::StoreError,
        ids::{OrderId, RefundId, UserId},
        paging::Cursor,
    },
};

/// A record and its user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRecord {
    pub user: UserId,
    pub record: Record,
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

/// Reads the rows of all accounts in the order of their keys. Each call reads a bounded number of rows.
#[async_trait]
pub trait BookStore: Send + Sync + 'static {
    /// The next `limit` users after `after` (`None`: the first users) in key order; fewer at the end.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn users(&self, after: Option<&UserId>, limit: u32) -> Result<Vec<UserId>, StoreError>;

    /// At most `limit` records of a span, by user, time and id. Records outside of the span are not read.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn records_of(&self, span: RecordSpan<'_>, limit: u32) -> Result<Vec<UserRecord>, StoreError>;

    /// The next `limit` orders after `after`, by id; fewer at the end.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn all_orders(&self, after: Option<&OrderId>, limit: u32) -> Result<Vec<Order>, StoreError>;

    /// The next `limit` refunds of top-ups after `after`, by id; fewer at the end.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn all_order_refunds(&self, after: Option<&RefundId>, limit: u32) -> Result<Vec<OrderRefund>, StoreError>;

    /// The next `limit` adjustments after `after`, by user and id; fewer at the end.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn all_adjustments(&self, after: Option<&Adjusted>, limit: u32) -> Result<Vec<Adjusted>, StoreError>;
}
