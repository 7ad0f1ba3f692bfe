//! OpsStats: rows of `job_run` and `recharge_order`.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::Row;

use crate::{
    biz::{
        jobs::{
            audit,
            ops_stats::{FinishedAudit, OpsStatsStore},
        },
        settlement::order::OrderStatus,
        values::error::StoreError,
    },
    data::{
        error::{corrupt, store_error},
        mysql::{
            MySqlStore,
            row::{number, optional_text},
        },
    },
};

#[async_trait]
impl OpsStatsStore for MySqlStore {
    async fn last_audit(&self) -> Result<Option<FinishedAudit>, StoreError> {
        let last = sqlx::query(
            "SELECT finished_at, position FROM job_run WHERE job = ? AND finished_at IS NOT NULL \
             ORDER BY finished_at DESC LIMIT 1",
        );
        let rows = self.reader.fetch_all(last.bind(audit::JOB)).await?;
        let finished = rows.first().map(|row| {
            let position = optional_text(row, 1)?;
            let differences = audit::differences_at(position.as_deref()).ok_or_else(|| corrupt("position"))?;
            Ok(FinishedAudit { at: row.try_get(0).map_err(store_error)?, differences })
        });
        finished.transpose()
    }

    async fn count_pending(&self, made_before: DateTime<Utc>) -> Result<u64, StoreError> {
        let count = sqlx::query("SELECT COUNT(*) FROM recharge_order WHERE status = ? AND created_at < ?")
            .bind(OrderStatus::Pending.name())
            .bind(made_before.naive_utc());
        let rows = self.reader.fetch_all(count).await?;
        rows.first().map_or(Ok(0), |row| number(row, 0))
    }
}
