//! Counts low accounts.

use std::time::Duration;

use async_trait::async_trait;
use chrono::TimeDelta;
use sqlx::Connection;

use crate::{
    biz::{
        jobs::low_balance::{LowBalanceStore, LowCounts, Percent, StoredCounts, Thresholds},
        values::{calendar::Month, error::StoreError},
    },
    data::{
        error::store_error,
        mysql::{MySqlStore, statement::Statement},
        rows::jobs::{STORED_COUNTS, low_count_of, rows_of_counts, stored_counts_of},
    },
};

#[async_trait]
impl LowBalanceStore for MySqlStore {
    async fn count_low(&self, thresholds: Thresholds, month: Month, within: Duration) -> Result<LowCounts, StoreError> {
        // A connection of its own, so that the count takes none from the requests.
        let mut connection = self.nodes.connect().await?;
        let sets = count(thresholds, month, within).fetch(&mut connection).await?;
        connection.close().await.map_err(store_error)?;
        sets.iter().flatten().map(low_count_of).collect()
    }

    async fn stored_counts(&self, basis: &str) -> Result<Option<StoredCounts>, StoreError> {
        stored_counts_of(&self.reader.fetch_all(sqlx::query(STORED_COUNTS).bind(basis)).await?)
    }

    async fn store_counts(&self, basis: &str, stored: &StoredCounts) -> Result<(), StoreError> {
        let write = Statement::transaction(|statement| {
            statement.push("DELETE FROM low_count WHERE basis = ").texts([basis]);
            statement.push(" OR due_at < ").instant(stored.due_at - TimeDelta::days(1));
            statement.push("; INSERT INTO low_count (basis, service_name, users, counted_at, due_at) VALUES ");
            statement.rows(rows_of_counts(stored), |row, (service, users, counted_at)| {
                row.text(basis).text(service).number(users).instant(counted_at).instant(stored.due_at);
            });
            statement.push("; ");
        });
        self.waiter.run(write).await
    }
}

/// The query of the count.
fn count(thresholds: Thresholds, month: Month, within: Duration) -> Statement {
    let mut count = Statement::select_within(within);
    count.push("NULL, COUNT(*) FROM user_balance WHERE balance - held < ");
    count.money(thresholds.balance);
    // With some ten months, MariaDB would read the quotas of all.
    count.push(" UNION ALL SELECT service_name, COUNT(*) FROM free_quota FORCE INDEX (idx_month) WHERE reset_month = ");
    count.texts([month.to_string().as_str()]);
    count.push(" AND total_quota > 0 AND (total_quota - used_quota - held_quota) * ");
    count.number(Percent::WHOLE).push(" < total_quota * ").number(thresholds.quota.hundredths());
    count.push(" GROUP BY service_name");
    count
}
