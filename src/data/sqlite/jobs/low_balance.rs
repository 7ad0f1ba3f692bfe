//! Counts low accounts.

use std::time::Duration;

use async_trait::async_trait;
use chrono::TimeDelta;
use rusqlite::{Connection, TransactionBehavior, params};
use sqlx::Connection as _;

use crate::{
    biz::{
        jobs::low_balance::{KeptCounts, LowBalanceStore, LowCounts, Percent, Thresholds},
        values::{calendar::Month, error::StoreError},
    },
    data::{
        error::store_error,
        rows::jobs::{KEPT_COUNTS, kept_counts_of, kept_rows, low_count_of},
        sqlite::{SqliteStore, writer::writer_error},
    },
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

    async fn kept_counts(&self, basis: &str) -> Result<Option<KeptCounts>, StoreError> {
        let rows = sqlx::query(KEPT_COUNTS).bind(basis).fetch_all(&self.reader).await.map_err(store_error)?;
        kept_counts_of(&rows)
    }

    async fn keep_counts(&self, basis: &str, kept: &KeptCounts) -> Result<(), StoreError> {
        let (basis, kept) = (basis.to_owned(), kept.clone());
        self.writer.run(move |connection| keep(connection, &basis, &kept).map_err(writer_error)).await
    }
}

fn keep(connection: &mut Connection, basis: &str, kept: &KeptCounts) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let (counted_at, due_at) = (kept.counted_at.timestamp_micros(), kept.due_at.timestamp_micros());
    let old = (kept.counted_at - TimeDelta::days(1)).timestamp_micros();
    transaction.execute("DELETE FROM low_count WHERE basis = ? OR counted_at < ?", params![basis, old])?;
    for (service, users) in kept_rows(&kept.counts) {
        transaction.execute(
            "INSERT INTO low_count (basis, service_name, users, counted_at, due_at) VALUES (?, ?, ?, ?, ?)",
            params![basis, service, users, counted_at, due_at],
        )?;
    }
    transaction.commit()
}
