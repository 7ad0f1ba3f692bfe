//! Counts low accounts.

use std::time::Duration;

use async_trait::async_trait;
use chrono::TimeDelta;
use rusqlite::{Connection, TransactionBehavior, params};
use sqlx::Connection as _;

use crate::{
    biz::{
        jobs::low_balance::{LowBalanceStore, LowCounts, Percent, StoredCounts, Thresholds},
        values::{calendar::Month, error::StoreError},
    },
    data::{
        error::store_error,
        rows::jobs::{STORED_COUNTS, low_count_of, rows_of_counts, stored_counts_of},
        sqlite::{SqliteStore, writer::writer_error},
    },
};

/// Reads the quotas of one month.
const COUNT: &str = "SELECT NULL, COUNT(*) FROM user_balance WHERE balance - held < ?1 \
    UNION ALL SELECT service_name, COUNT(*) FROM free_quota WHERE reset_month = ?2 AND total_quota > 0 \
    AND (total_quota - used_quota - held_quota) * ?3 < total_quota * ?4 GROUP BY service_name";

#[async_trait]
impl LowBalanceStore for SqliteStore {
    async fn count_low(&self, thresholds: Thresholds, month: Month, within: Duration) -> Result<LowCounts, StoreError> {
        let mut connection = self.connect_within(within).await?;
        let rows = sqlx::query(COUNT)
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

    async fn stored_counts(&self, basis: &str) -> Result<Option<StoredCounts>, StoreError> {
        let rows = sqlx::query(STORED_COUNTS).bind(basis).fetch_all(&self.reader).await.map_err(store_error)?;
        stored_counts_of(&rows)
    }

    async fn store_counts(&self, basis: &str, stored: &StoredCounts) -> Result<(), StoreError> {
        let (basis, stored) = (basis.to_owned(), stored.clone());
        self.writer.run(move |connection| write(connection, &basis, &stored).map_err(writer_error)).await
    }
}

fn write(connection: &mut Connection, basis: &str, stored: &StoredCounts) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let due_at = stored.due_at.timestamp_micros();
    let old = (stored.due_at - TimeDelta::days(1)).timestamp_micros();
    transaction.execute("DELETE FROM low_count WHERE basis = ? OR due_at < ?", params![basis, old])?;
    for (service, users, counted_at) in rows_of_counts(stored) {
        transaction.execute(
            "INSERT INTO low_count (basis, service_name, users, counted_at, due_at) VALUES (?, ?, ?, ?, ?)",
            params![basis, service, users, counted_at.timestamp_micros(), due_at],
        )?;
    }
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::sqlite::tests::{empty_store, searches};

    #[tokio::test]
    async fn a_count_reads_the_quotas_of_one_month() {
        let (store, _folder) = empty_store().await;
        let plan: &'static str = format!("EXPLAIN QUERY PLAN {COUNT}").leak();
        let plan = sqlx::query(plan).fetch_all(&store.reader).await.unwrap();
        let quotas = "SEARCH free_quota USING INDEX idx_free_quota_month (reset_month=?)";
        assert_eq!(searches(&plan), ["SCAN user_balance", quotas]);
    }
}
