//! Scans the users with an account, in key order.

use async_trait::async_trait;

use crate::{
    biz::{
        account::users::{UserSpan, Users},
        values::{error::StoreError, ids::UserId},
    },
    data::{mysql::MySqlStore, row::Columns, rows::account::span_of},
};

#[async_trait]
impl Users for MySqlStore {
    async fn span(&self, after: Option<&UserId>, count: u32) -> Result<Option<(UserSpan, u64)>, StoreError> {
        let query = sqlx::query(
            "SELECT MAX(user_id), COUNT(*) FROM \
             (SELECT user_id FROM user_balance WHERE user_id > ? ORDER BY user_id LIMIT ?) span",
        );
        let rows = self.reader.fetch_all(query.bind(after.map_or("", UserId::as_str)).bind(count)).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        span_of(row, after)
    }

    async fn users_behind(&self, after: Option<&UserId>) -> Result<u64, StoreError> {
        let query = sqlx::query("SELECT COUNT(*) FROM user_balance WHERE user_id > ?");
        let rows = self.reader.fetch_all(query.bind(after.map_or("", UserId::as_str))).await?;
        rows.first().map_or(Ok(0), |row| row.number(0))
    }
}
