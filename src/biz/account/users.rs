//! The users who have an account, in key order, a span at a time: how jobs go through
//! them. Nobody is charged without one; the audit finds who has none all the same.

use async_trait::async_trait;

use crate::biz::values::{error::StoreError, ids::UserId};

/// The users behind one and up to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserSpan {
    /// `None`: from the first user on.
    pub after: Option<UserId>,
    pub last: UserId,
}

impl UserSpan {
    /// What every user of the span comes behind; the empty text before the first user.
    pub fn after(&self) -> &str {
        self.after.as_ref().map_or("", UserId::as_str)
    }
}

/// Walks all users.
#[async_trait]
pub trait Users: Send + Sync + 'static {
    /// The span of so many users behind `after`, or of the first, and how many they are;
    /// `None` behind the last user.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn span(&self, after: Option<&UserId>, count: u32) -> Result<Option<(UserSpan, u64)>, StoreError>;

    /// How many there are behind `after`, or in all.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn users_behind(&self, after: Option<&UserId>) -> Result<u64, StoreError>;
}
