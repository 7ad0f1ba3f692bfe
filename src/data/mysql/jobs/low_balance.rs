//! Counts low accounts.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::Connection;

use crate::{
    biz::{
        jobs::low_balance::{LowBalanceStore, LowCounts, Percent, Thresholds},
        values::{calendar::Month, error::StoreError},
    },
    data::{
        error::store_error,
        mysql::{MySqlStore, statement::Statement},
        rows::jobs::low_count_of,
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
}

/// The query of the count, with a time limit, because the server does not notice a caller that has
/// gone. MariaDB has the limit before the statement, and MySQL in a hint. Each server ignores the
/// form of the other as a comment, or takes it as the same limit.
fn count(thresholds: Thresholds, month: Month, within: Duration) -> Statement {
    // Zero would mean no limit.
    let within_ms = u32::try_from(within.as_millis()).unwrap_or(u32::MAX).max(1);
    let mut count = Statement::new("/*M! SET STATEMENT max_statement_time = ");
    count.number(within_ms);
    count.push(" / 1000 FOR */ SELECT /*+ MAX_EXECUTION_TIME(");
    count.number(within_ms);
    count.push(") */ NULL, COUNT(*) FROM user_balance WHERE balance - held < ");
    count.money(thresholds.balance);
    count.push(" UNION ALL SELECT service_name, COUNT(*) FROM free_quota WHERE reset_month = ");
    count.texts([month.to_string().as_str()]);
    count.push(" AND total_quota > 0 AND (total_quota - used_quota - held_quota) * ");
    count.number(Percent::WHOLE).push(" < total_quota * ").number(thresholds.quota.hundredths());
    count.push(" GROUP BY service_name");
    count
}
