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

/// The query of the count.
fn count(thresholds: Thresholds, month: Month, within: Duration) -> Statement {
    let mut count = Statement::select_within(within);
    count.push("NULL, COUNT(*) FROM user_balance WHERE balance - held < ");
    count.money(thresholds.balance);
    count.push(" UNION ALL SELECT service_name, COUNT(*) FROM free_quota WHERE reset_month = ");
    count.texts([month.to_string().as_str()]);
    count.push(" AND total_quota > 0 AND (total_quota - used_quota - held_quota) * ");
    count.number(Percent::WHOLE).push(" < total_quota * ").number(thresholds.quota.hundredths());
    count.push(" GROUP BY service_name");
    count
}
