//! Figures from the database that alert operators: the differences of the last audit, the number of
//! top-ups and of their refunds that have been pending for long, the number of refunds that failed lately,
//! the number of unapplied payments, and the size of the feed of events.

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};

use crate::biz::{events::Position, values::error::StoreError};

/// A top-up that has been pending for longer than this is old.
pub const PENDING_FOR: TimeDelta = TimeDelta::hours(1);

/// A refund that failed longer ago than this is no longer shown.
pub const FAILED_WITHIN: TimeDelta = TimeDelta::days(1);

/// A scheduled audit that finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishedAudit {
    /// Time of its end, by the clock of the database.
    pub at: DateTime<Utc>,
    pub differences: u64,
}

/// Most events without a position that are counted.
pub const MAX_UNPLACED: u32 = 10_000;

/// The size of the feed of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedSize {
    /// The last given position.
    pub head: Position,
    /// Events with a position.
    pub placed: u64,
    /// Events that nobody has read yet, at most [`MAX_UNPLACED`].
    pub unplaced: u64,
    /// The time of the oldest event.
    pub oldest: Option<DateTime<Utc>>,
}

/// Reads the figures that operators are alerted to.
#[async_trait]
pub trait OpsStatsStore: Send + Sync + 'static {
    /// The scheduled run of an audit that finished last, by the name of its job. Unfinished audits do not count,
    /// because they have not read all books. Nightly audits by hand do not count, because they report to the operator.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]; [`StoreError::Failed`], also when the stored result of the
    /// audit is malformed.
    async fn last_audit(&self, job: &str) -> Result<Option<FinishedAudit>, StoreError>;

    /// The number of pending top-ups and of pending refunds that were created before `made_before`, and
    /// of unapplied payments whose refund began before.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn count_pending(&self, made_before: DateTime<Utc>) -> Result<u64, StoreError>;

    /// The number of refunds of top-ups that failed after `failed_after`, and whose money has not gone back
    /// since.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn count_failed_refunds(&self, failed_after: DateTime<Utc>) -> Result<u64, StoreError>;

    /// The number of unapplied payments that wait for an operator.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn count_unapplied(&self) -> Result<u64, StoreError>;

    /// The size of the feed of events, in a time that does not grow with it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn feed_size(&self) -> Result<FeedSize, StoreError>;
}
