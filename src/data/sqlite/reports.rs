//! Lists and statistics.

use std::collections::BTreeMap;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::SqliteStore;
use crate::{
    biz::{
        reports::{
            record::{Counted, Record, RecordFilter, RecordStore},
            statistics::{DailyUse, Statistics, Totals},
        },
        settlement::{adjustments::AdjustmentStore, posting::Adjusted},
        values::{
            calendar::DaySpan,
            error::StoreError,
            ids::{ServiceName, UserId},
            paging::PageStart,
        },
    },
    data::{
        error::store_error,
        row::Columns,
        rows::{
            report::{counted_of, daily_use_of, record_of, service_totals_of},
            transaction::{adjusted_of, adjustment_columns},
        },
    },
};

/// The records of one table for a list.
macro_rules! records_of {
    ($table:literal) => {
        concat!(
            "SELECT user_id, billing_record_id, service_name, type, amount, count, created_at, trace_id, late_of FROM ",
            $table,
            " WHERE user_id = ?1 AND (?2 IS NULL OR service_name = ?2) AND (?3 IS NULL OR type = ?3) \
             AND created_at >= ?4 AND created_at < ?5 AND (created_at, billing_record_id) < (?6, ?7)"
        )
    };
}

/// Reads both tables in the order of their keys, so that the read ends with the last record of the
/// page. API key, model and tokens are columns of the transaction, and belong to its main record.
const LIST: &str = concat!(
    "SELECT r.billing_record_id, r.service_name, r.type, r.amount, r.count, r.created_at, r.trace_id, \
     t.api_key_id, t.model, t.input_tokens, t.output_tokens, t.cached_input_tokens, t.record_id, r.late_of, \
     t.cache_write_tokens, t.cache_write_1h_tokens, t.audio_input_tokens, t.reasoning_tokens, t.audio_output_tokens, \
     t.images, t.served_model, COALESCE(t.commit_service_tier, t.service_tier) FROM (",
    records_of!("billing_record"),
    " UNION ALL ",
    records_of!("billing_record_archive"),
    " ORDER BY created_at DESC, billing_record_id DESC LIMIT ?8 OFFSET ?9) r \
     LEFT JOIN settled_transaction t ON t.user_id = r.user_id AND t.trace_id = r.trace_id \
     ORDER BY r.created_at DESC, r.billing_record_id DESC"
);

#[async_trait]
impl RecordStore for SqliteStore {
    async fn records(
        &self,
        filter: &RecordFilter,
        between: Option<(DateTime<Utc>, DateTime<Utc>)>,
        start: &PageStart,
        limit: u32,
    ) -> Result<Vec<Record>, StoreError> {
        let (from, before) = match between {
            Some((from, before)) => (from.timestamp_micros(), before.timestamp_micros()),
            None => (i64::MIN, i64::MAX),
        };
        let (offset, after, after_id) = match start {
            PageStart::Offset(offset) => (*offset, i64::MAX, ""),
            PageStart::After(cursor) => (0, cursor.created_at.timestamp_micros(), cursor.id.as_str()),
        };
        let rows = sqlx::query(LIST)
            .bind(filter.user.as_str())
            .bind(filter.service.as_ref().map(ServiceName::as_str))
            .bind(filter.kind.map(|kind| kind as i32))
            .bind(from)
            .bind(before)
            .bind(after)
            .bind(after_id)
            .bind(limit)
            .bind(offset)
            .fetch_all(&self.reader)
            .await
            .map_err(store_error)?;
        rows.iter().map(record_of).collect()
    }

    async fn count_records(&self, filter: &RecordFilter) -> Result<Counted, StoreError> {
        let (first, last) = bounds(filter.days);
        let row = sqlx::query(
            "SELECT COALESCE(SUM(records), 0), MIN(usage_date), MAX(usage_date) FROM (\
             SELECT usage_date, CASE ?2 WHEN 1 THEN free_records WHEN 2 THEN paid_records \
             WHEN 3 THEN free_refunds WHEN 4 THEN paid_refunds \
             ELSE free_records + paid_records + COALESCE(free_refunds + paid_refunds, 0) END AS records \
             FROM usage_daily WHERE user_id = ?1 AND usage_date BETWEEN ?4 AND ?5 \
             AND (?3 IS NULL OR service_name = ?3)) WHERE records > 0",
        )
        .bind(filter.user.as_str())
        .bind(filter.kind.map_or(0, |kind| kind as i32))
        .bind(filter.service.as_ref().map(ServiceName::as_str))
        .bind(first)
        .bind(last)
        .fetch_one(&self.reader)
        .await
        .map_err(store_error)?;
        counted_of(&row)
    }
}

#[async_trait]
impl AdjustmentStore for SqliteStore {
    async fn adjustments(&self, user: &UserId, start: &PageStart, limit: u32) -> Result<Vec<Adjusted>, StoreError> {
        let (offset, after, after_id) = match start {
            PageStart::Offset(offset) => (*offset, i64::MAX, ""),
            PageStart::After(cursor) => (0, cursor.created_at.timestamp_micros(), cursor.id.as_str()),
        };
        let rows = sqlx::query(concat!(
            "SELECT ",
            adjustment_columns!(),
            " FROM balance_adjustment WHERE user_id = ? AND (created_at, request_id) < (?, ?) \
             ORDER BY created_at DESC, request_id DESC LIMIT ? OFFSET ?"
        ))
        .bind(user.as_str())
        .bind(after)
        .bind(after_id)
        .bind(limit)
        .bind(offset)
        .fetch_all(&self.reader)
        .await
        .map_err(store_error)?;
        rows.iter().map(adjusted_of).collect()
    }

    async fn count_adjustments(&self, user: &UserId) -> Result<u64, StoreError> {
        let count = sqlx::query("SELECT COUNT(*) FROM balance_adjustment WHERE user_id = ?").bind(user.as_str());
        count.fetch_one(&self.reader).await.map_err(store_error)?.number(0)
    }
}

#[async_trait]
impl Statistics for SqliteStore {
    async fn totals(&self, user: &UserId, span: Option<DaySpan>) -> Result<BTreeMap<ServiceName, Totals>, StoreError> {
        let (first, last) = bounds(span);
        let rows = sqlx::query(
            "SELECT service_name, SUM(free_count), SUM(paid_count), SUM(amount), \
             COALESCE(SUM(refunded_free + refunded_paid), 0), SUM(refunded_amount) FROM usage_daily \
             WHERE user_id = ? AND usage_date BETWEEN ? AND ? GROUP BY service_name",
        )
        .bind(user.as_str())
        .bind(first)
        .bind(last)
        .fetch_all(&self.reader)
        .await
        .map_err(store_error)?;
        rows.iter().map(service_totals_of).collect()
    }

    async fn daily(&self, user: &UserId, span: DaySpan) -> Result<Vec<DailyUse>, StoreError> {
        let (first, last) = bounds(Some(span));
        let rows = sqlx::query(
            "SELECT service_name, usage_date, free_count, paid_count, amount, \
             COALESCE(refunded_free + refunded_paid, 0), refunded_amount FROM usage_daily \
             WHERE user_id = ? AND usage_date BETWEEN ? AND ? ORDER BY service_name, usage_date",
        )
        .bind(user.as_str())
        .bind(first)
        .bind(last)
        .fetch_all(&self.reader)
        .await
        .map_err(store_error)?;
        rows.iter().map(daily_use_of).collect()
    }
}

/// The first and last day as stored; all days without a span.
fn bounds(span: Option<DaySpan>) -> (String, String) {
    match span {
        Some(span) => (span.first.to_string(), span.last.to_string()),
        None => ("0000-00-00".into(), "9999-12-31".into()),
    }
}
