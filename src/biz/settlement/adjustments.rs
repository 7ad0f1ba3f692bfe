//! Lists of the credits and debits of operators.

use async_trait::async_trait;

use super::posting::Adjusted;
use crate::biz::values::{error::StoreError, ids::UserId, paging::PageStart};

/// Reads adjustments.
#[async_trait]
pub trait AdjustmentStore: Send + Sync + 'static {
    /// At most `limit` adjustments of a user, newest first. The id of a cursor is the request of an
    /// adjustment.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn adjustments(&self, user: &UserId, start: &PageStart, limit: u32) -> Result<Vec<Adjusted>, StoreError>;

    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn count_adjustments(&self, user: &UserId) -> Result<u64, StoreError>;
}
