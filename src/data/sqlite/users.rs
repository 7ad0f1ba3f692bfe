//! The users who have an account, in key order.

use async_trait::async_trait;

use super::{
    SqliteStore,
    row::{number, optional_text},
    store_error,
};
use crate::biz::{error::StoreError, ids::UserId, users::Users};

#[async_trait]
impl Users for SqliteStore {
    async fn end_of_chunk(&self, after: Option<&UserId>, count: u32) -> Result<Option<(UserId, u64)>, StoreError> {
        let row = sqlx::query(
            "SELECT MAX(user_id), COUNT(*) FROM \
             (SELECT user_id FROM user_balance WHERE user_id > ? ORDER BY user_id LIMIT ?)",
        )
        .bind(after.map_or("", |user| user.as_str()))
        .bind(count)
        .fetch_one(&self.reader)
        .await
        .map_err(store_error)?;
        let users: u32 = number(&row, 1)?;
        Ok(optional_text(&row, 0)?.map(|last| (UserId::from_stored(last), users.into())))
    }

    async fn users_behind(&self, after: Option<&UserId>) -> Result<u64, StoreError> {
        let query = sqlx::query("SELECT COUNT(*) FROM user_balance WHERE user_id > ?");
        let query = query.bind(after.map_or("", |user| user.as_str()));
        let row = query.fetch_one(&self.reader).await.map_err(store_error)?;
        number(&row, 0)
    }
}
