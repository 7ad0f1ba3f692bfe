//! The users who are known, in key order.

use async_trait::async_trait;

use super::{error::StoreError, ids::UserId};

/// Walks all users, a chunk at a time.
#[async_trait]
pub trait Users: Send + Sync + 'static {
    /// The last of so many users behind `after`, or of the first, and how many they are;
    /// `None` behind the last user.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn end_of_chunk(&self, after: Option<&UserId>, count: u32) -> Result<Option<(UserId, u64)>, StoreError>;

    /// How many there are behind `after`, or in all.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn users_behind(&self, after: Option<&UserId>) -> Result<u64, StoreError>;
}
