//! What only the database knows and operators are alerted to: what the last audit found, and
//! top-ups that nobody has settled for long.

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};

use crate::biz::values::error::StoreError;

/// A top-up that has been pending for longer is old.
pub const PENDING_FOR: TimeDelta = TimeDelta::hours(1);

/// An audit of the schedule that came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishedAudit {
    /// By the clock of the database.
    pub at: DateTime<Utc>,
    pub differences: u64,
}

/// Reads the figures that operators are alerted to.
#[async_trait]
pub trait OpsStatsStore: Send + Sync + 'static {
    /// The audit that was finished last. Those that go on or were cut short have not seen
    /// all books, and those by hand are told to whoever makes them: neither counts.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]; [`StoreError::Failed`], also when what the audit found
    /// can't be read.
    async fn last_audit(&self) -> Result<Option<FinishedAudit>, StoreError>;

    /// How many pending top-ups were made before an instant.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn count_pending(&self, made_before: DateTime<Utc>) -> Result<u64, StoreError>;
}
