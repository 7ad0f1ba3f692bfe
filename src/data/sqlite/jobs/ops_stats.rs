//! Reads the operators' figures, from `job_run`, `recharge_order`, `recharge_refund`, `unapplied_payment` and `event`.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::{
    biz::{
        jobs::ops_stats::{FeedSize, FinishedAudit, MAX_UNPLACED, OpsStatsStore},
        settlement::{order::OrderStatus, order_refund::RefundStatus, unapplied::UnappliedStatus},
        values::error::StoreError,
    },
    data::{
        error::store_error,
        row::Columns,
        rows::{
            event::{FEED_SIZE, feed_size_of},
            jobs::finished_audit_of,
        },
        sqlite::SqliteStore,
    },
};

#[async_trait]
impl OpsStatsStore for SqliteStore {
    async fn last_audit(&self, job: &str) -> Result<Option<FinishedAudit>, StoreError> {
        let last = sqlx::query(
            "SELECT finished_at, position FROM job_run WHERE job = ? AND finished_at IS NOT NULL \
             ORDER BY finished_at DESC LIMIT 1",
        );
        let row = last.bind(job).fetch_optional(&self.reader).await.map_err(store_error)?;
        row.as_ref().map(finished_audit_of).transpose()
    }

    async fn count_pending(&self, made_before: DateTime<Utc>) -> Result<u64, StoreError> {
        let count = sqlx::query(
            "SELECT (SELECT COUNT(*) FROM recharge_order WHERE status = ?1 AND created_at < ?2) \
             + (SELECT COUNT(*) FROM recharge_refund WHERE status = ?3 AND created_at < ?2) \
             + (SELECT COUNT(*) FROM unapplied_payment WHERE status = ?4 AND resolved_at < ?2)",
        )
        .bind(OrderStatus::Pending.name())
        .bind(made_before.timestamp_micros())
        .bind(RefundStatus::Pending.name())
        .bind(UnappliedStatus::Refunding.name());
        count.fetch_one(&self.reader).await.map_err(store_error)?.number(0)
    }

    async fn count_failed_refunds(&self, failed_after: DateTime<Utc>) -> Result<u64, StoreError> {
        let count = sqlx::query("SELECT COUNT(*) FROM recharge_refund WHERE status = ? AND updated_at > ?")
            .bind(RefundStatus::Failed.name())
            .bind(failed_after.timestamp_micros());
        count.fetch_one(&self.reader).await.map_err(store_error)?.number(0)
    }

    async fn count_unapplied(&self) -> Result<u64, StoreError> {
        let [open, conflict] = UnappliedStatus::UNRESOLVED.map(UnappliedStatus::name);
        let count = sqlx::query("SELECT COUNT(*) FROM unapplied_payment WHERE status IN (?, ?)");
        let count = count.bind(open).bind(conflict);
        count.fetch_one(&self.reader).await.map_err(store_error)?.number(0)
    }

    async fn feed_size(&self) -> Result<FeedSize, StoreError> {
        let size = sqlx::query(FEED_SIZE).bind(MAX_UNPLACED);
        feed_size_of(&size.fetch_one(&self.reader).await.map_err(store_error)?)
    }
}
