//! The users who have an account, in key order.

use async_trait::async_trait;
use sqlx::Row;

use super::{MySqlStore, optional_text, store_error};
use crate::biz::{error::StoreError, ids::UserId, users::Users};

#[async_trait]
impl Users for MySqlStore {
    async fn end_of_chunk(&self, after: Option<&UserId>, count: u32) -> Result<Option<(UserId, u64)>, StoreError> {
        let query = sqlx::query(
            "SELECT MAX(user_id), COUNT(*) FROM \
             (SELECT user_id FROM user_balance WHERE user_id > ? ORDER BY user_id LIMIT ?) chunk",
        )
        .bind(after.map_or("", |user| user.as_str()))
        .bind(count);
        let rows = self.reader.fetch_all(query).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let users: i64 = row.try_get(1).map_err(store_error)?;
        Ok(optional_text(row, 0)?.map(|last| (UserId::from_stored(last), users.unsigned_abs())))
    }

    async fn users_behind(&self, after: Option<&UserId>) -> Result<u64, StoreError> {
        let query = sqlx::query("SELECT COUNT(*) FROM user_balance WHERE user_id > ?");
        let rows = self.reader.fetch_all(query.bind(after.map_or("", |user| user.as_str()))).await?;
        let users: i64 = rows.first().map_or(Ok(0), |row| row.try_get(0)).map_err(store_error)?;
        Ok(users.unsigned_abs())
    }
}
