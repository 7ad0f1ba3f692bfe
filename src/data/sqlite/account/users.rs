//! Scans the users with an account, in key order.

use async_trait::async_trait;

use crate::{
    biz::{
        account::users::{UserSpan, Users},
        values::{error::StoreError, ids::UserId},
    },
    data::{error::store_error, row::Columns, rows::account::span_of, sqlite::SqliteStore},
};

#[async_trait]
impl Users for SqliteStore {
    async fn span(&self, after: Option<&UserId>, count: u32) -> Result<Option<(UserSpan, u64)>, StoreError> {
        let query = sqlx::query(
            "SELECT MAX(user_id), COUNT(*) FROM \
             (SELECT user_id FROM user_balance WHERE user_id > ? ORDER BY user_id LIMIT ?)",
        );
        let query = query.bind(after.map_or("", UserId::as_str)).bind(count);
        let row = query.fetch_one(&self.reader).await.map_err(store_error)?;
        span_of(&row, after)
    }

    async fn users_behind(&self, after: Option<&UserId>) -> Result<u64, StoreError> {
        let query = sqlx::query("SELECT COUNT(*) FROM user_balance WHERE user_id > ?");
        let query = query.bind(after.map_or("", UserId::as_str));
        query.fetch_one(&self.reader).await.map_err(store_error)?.number(0)
    }
}
