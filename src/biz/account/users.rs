//! Scans all users with an account row, in key order, one span at a time. Jobs scan users this
//! way. A charge needs an account row, so the scan covers every charged user; the audit also
//! finds the traces of users without a row.

use async_trait::async_trait;

use crate::biz::values::{error::StoreError, ids::UserId};

/// Behind all ids in the order of both databases.
pub const END: &str = "\u{10FFFF}";

/// The users after `after`, up to and including `last`, in key order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserSpan {
    /// `None` begins at the first user.
    pub after: Option<UserId>,
    pub last: UserId,
}

impl UserSpan {
    /// The exclusive lower bound of the span; the empty string before the first user.
    pub fn after(&self) -> &str {
        self.after.as_ref().map_or("", UserId::as_str)
    }
}

/// Scans all users.
#[async_trait]
pub trait Users: Send + Sync + 'static {
    /// The span of the next `count` users after `after` (`None`: of the first users), and the number
    /// of users in it, which is smaller at the end. `None` after the last user.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn span(&self, after: Option<&UserId>, count: u32) -> Result<Option<(UserSpan, u64)>, StoreError>;

    /// The number of users after `after`; of all users for `None`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn users_behind(&self, after: Option<&UserId>) -> Result<u64, StoreError>;
}
