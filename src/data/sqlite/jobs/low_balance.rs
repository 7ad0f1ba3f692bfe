//! Counts low accounts.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::Connection;

use crate::{
    biz::{
        jobs::low_balance::{LowBalanceStore, LowCounts, Percent, Thresholds},
        values::{calendar::Month, error::StoreError},
    },
    data::{error::store_error, rows::jobs::low_count_of, sqlite::SqliteStore},
};

#[async_trait]
impl LowBalanceStore for SqliteStore {
    async fn count_low(&self, thresholds: Thresholds, month: Month, within: Duration) -> Result<LowCounts, StoreError> {
        let mut connection = self.connect_within(within).await?;
        let rows = sqlx::query(
            "SELECT NULL, COUNT(*) FROM user_balance WHERE balance - held < ?1 \
             UNION ALL SELECT service_name, COUNT(*) FROM free_quota WHERE reset_month = ?2 AND total_quota > 0 \
             AND (total_quota - used_quota - held_quota) * ?3 < total_quota * ?4 GROUP BY service_name",
        )
        .bind(thresholds.balance.micros())
        .bind(month.to_string())
        .bind(Percent::WHOLE)
        .bind(thresholds.quota.hundredths())
        .fetch_all(&mut connection)
        .await
        .map_err(store_error)?;
        connection.close().await.map_err(store_error)?;
        rows.iter().map(low_count_of).collect()
    }
}
