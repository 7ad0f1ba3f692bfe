//! Reads the operators' figures, from `job_run` and `recharge_order`.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::{
    biz::{
        jobs::{
            audit,
            ops_stats::{FinishedAudit, OpsStatsStore},
        },
        settlement::order::OrderStatus,
        values::error::StoreError,
    },
    data::{error::store_error, row::Columns, rows::jobs::finished_audit_of, sqlite::SqliteStore},
};

#[async_trait]
impl OpsStatsStore for SqliteStore {
    async fn last_audit(&self) -> Result<Option<FinishedAudit>, StoreError> {
        let last = sqlx::query(
            "SELECT finished_at, position FROM job_run WHERE job = ? AND finished_at IS NOT NULL \
             ORDER BY finished_at DESC LIMIT 1",
        );
        let row = last.bind(audit::JOB).fetch_optional(&self.reader).await.map_err(store_error)?;
        row.as_ref().map(finished_audit_of).transpose()
    }

    async fn count_pending(&self, made_before: DateTime<Utc>) -> Result<u64, StoreError> {
        let count = sqlx::query("SELECT COUNT(*) FROM recharge_order WHERE status = ? AND created_at < ?")
            .bind(OrderStatus::Pending.name())
            .bind(made_before.timestamp_micros());
        count.fetch_one(&self.reader).await.map_err(store_error)?.number(0)
    }
}
