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
        error::corrupt,
        mysql::MySqlStore,
        row::Columns,
        rows::{
            event::{FEED_SIZE, feed_size_of},
            jobs::finished_audit_of,
        },
    },
};

#[async_trait]
impl OpsStatsStore for MySqlStore {
    async fn last_audit(&self, job: &str) -> Result<Option<FinishedAudit>, StoreError> {
        let last = sqlx::query(
            "SELECT finished_at, position FROM job_run WHERE job = ? AND finished_at IS NOT NULL \
             ORDER BY finished_at DESC LIMIT 1",
        );
        let rows = self.reader.fetch_all(last.bind(job)).await?;
        rows.first().map(finished_audit_of).transpose()
    }

    async fn count_pending(&self, made_before: DateTime<Utc>) -> Result<u64, StoreError> {
        let count = sqlx::query(
            "SELECT (SELECT COUNT(*) FROM recharge_order WHERE status = ? AND created_at < ?) \
             + (SELECT COUNT(*) FROM recharge_refund WHERE status = ? AND created_at < ?) \
             + (SELECT COUNT(*) FROM unapplied_payment WHERE status = ? AND resolved_at < ?)",
        )
        .bind(OrderStatus::Pending.name())
        .bind(made_before.naive_utc())
        .bind(RefundStatus::Pending.name())
        .bind(made_before.naive_utc())
        .bind(UnappliedStatus::Refunding.name())
        .bind(made_before.naive_utc());
        let rows = self.reader.fetch_all(count).await?;
        rows.first().map_or(Ok(0), |row| row.number(0))
    }

    async fn count_failed_refunds(&self, failed_after: DateTime<Utc>) -> Result<u64, StoreError> {
        let count = sqlx::query("SELECT COUNT(*) FROM recharge_refund WHERE status = ? AND updated_at > ?")
            .bind(RefundStatus::Failed.name())
            .bind(failed_after.naive_utc());
        let rows = self.reader.fetch_all(count).await?;
        rows.first().map_or(Ok(0), |row| row.number(0))
    }

    async fn count_unapplied(&self) -> Result<u64, StoreError> {
        let [open, conflict] = UnappliedStatus::UNRESOLVED.map(UnappliedStatus::name);
        let count = sqlx::query("SELECT COUNT(*) FROM unapplied_payment WHERE status IN (?, ?)");
        let rows = self.reader.fetch_all(count.bind(open).bind(conflict)).await?;
        rows.first().map_or(Ok(0), |row| row.number(0))
    }

    async fn feed_size(&self) -> Result<FeedSize, StoreError> {
        let rows = self.reader.fetch_all(sqlx::query(FEED_SIZE).bind(MAX_UNPLACED)).await?;
        feed_size_of(rows.first().ok_or_else(|| corrupt("event_feed"))?)
    }
}
