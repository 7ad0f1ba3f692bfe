//! Lists and statistics.

use std::collections::BTreeMap;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{MySql, QueryBuilder};

use super::{
    MySqlStore,
    record_transactions::{record_columns, settled, with_content, with_transactions},
};
use crate::{
    biz::{
        reports::{
            record::{Counted, Record, RecordFilter, RecordStore, RecordType},
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
        row::Columns,
        rows::{
            report::{counted_of, daily_use_of, record_of, service_totals_of},
            transaction::{adjusted_of, adjustment_columns},
        },
    },
};

/// The last second of the range of DATETIME.
pub(super) const LAST: DateTime<Utc> = match DateTime::from_timestamp(253_402_300_799, 0) {
    Some(last) => last,
    None => DateTime::UNIX_EPOCH,
};

/// The newest records of one table that a list may need. The first condition on the cursor limits
/// the range of the key.
macro_rules! newest_of {
    ($table:literal) => {
        concat!(
            "(SELECT user_id, billing_record_id, service_name, type, amount, count, created_at, trace_id, late_of FROM ",
            $table,
            " WHERE user_id = ? AND (? IS NULL OR service_name = ?) AND (? IS NULL OR type = ?) \
             AND created_at >= ? AND created_at < ? AND created_at <= ? AND (created_at < ? OR billing_record_id < ?) \
             ORDER BY created_at DESC, billing_record_id DESC LIMIT ?)"
        )
    };
}

/// One statement reads both tables in one snapshot, so that a record that moves between them is in
/// exactly one. API key, model and tokens are columns of the transaction, and belong to its main
/// record.
const LIST: &str = concat!(
    "SELECT ",
    record_columns!(),
    " FROM (",
    newest_of!("billing_record"),
    " UNION ALL ",
    newest_of!("billing_record_archive"),
    " ORDER BY created_at DESC, billing_record_id DESC LIMIT ? OFFSET ?) r ",
    with_transactions!(),
    " ORDER BY r.created_at DESC, r.billing_record_id DESC"
);

#[async_trait]
impl RecordStore for MySqlStore {
    async fn records(
        &self,
        filter: &RecordFilter,
        between: Option<(DateTime<Utc>, DateTime<Utc>)>,
        start: &PageStart,
        limit: u32,
    ) -> Result<Vec<Record>, StoreError> {
        // Without bounds, the range of DATETIME applies.
        let (from, before) = between.unwrap_or((DateTime::UNIX_EPOCH, LAST));
        let (offset, after, after_id) = match start {
            PageStart::Offset(offset) => (*offset, LAST, ""),
            PageStart::After(cursor) => (0, cursor.created_at, cursor.id.as_str()),
        };
        let (service, kind) = (filter.service.as_ref().map(ServiceName::as_str), filter.kind.map(|kind| kind as i32));
        let mut query = sqlx::query(LIST);
        // The same values for each of the two tables.
        for _ in 0..2 {
            query = query
                .bind(filter.user.as_str())
                .bind(service)
                .bind(service)
                .bind(kind)
                .bind(kind)
                .bind(from.naive_utc())
                .bind(before.naive_utc())
                .bind(after.naive_utc())
                .bind(after.naive_utc())
                .bind(after_id)
                .bind(offset + limit);
        }
        let rows = self.viewer.fetch_all(query.bind(limit).bind(offset)).await?;
        rows.iter().map(record_of).collect()
    }

    async fn count_records(&self, filter: &RecordFilter) -> Result<Counted, StoreError> {
        let counted = match filter.kind {
            None => "free_records + paid_records + COALESCE(free_refunds + paid_refunds, 0)",
            Some(RecordType::Free) => "free_records",
            Some(RecordType::Balance) => "paid_records",
            Some(RecordType::FreeRefund) => "COALESCE(free_refunds, 0)",
            Some(RecordType::BalanceRefund) => "COALESCE(paid_refunds, 0)",
        };
        let mut query = QueryBuilder::<MySql>::new("SELECT CAST(COALESCE(SUM(");
        query.push(counted).push("), 0) AS SIGNED), MIN(usage_date), MAX(usage_date) FROM usage_daily WHERE ");
        query.push(counted).push(" > 0 AND user_id = ");
        query.push_bind(filter.user.as_str().to_owned());
        if let Some(service) = &filter.service {
            query.push(" AND service_name = ").push_bind(service.as_str().to_owned());
        }
        if let Some(span) = filter.days {
            query.push(" AND usage_date BETWEEN ").push_bind(span.first).push(" AND ").push_bind(span.last);
        }
        let rows = self.viewer.fetch_all(query.build()).await?;
        rows.first().map_or(Ok(Counted { records: 0, days: None }), counted_of)
    }
}

#[async_trait]
impl AdjustmentStore for MySqlStore {
    async fn adjustments(&self, user: &UserId, start: &PageStart, limit: u32) -> Result<Vec<Adjusted>, StoreError> {
        let (offset, after, after_id) = match start {
            PageStart::Offset(offset) => (*offset, LAST, ""),
            PageStart::After(cursor) => (0, cursor.created_at, cursor.id.as_str()),
        };
        // The first condition on the cursor limits the range of the key; the second one is exact.
        let query = sqlx::query(concat!(
            "SELECT ",
            adjustment_columns!(),
            " FROM balance_adjustment WHERE user_id = ? AND created_at <= ? AND (created_at < ? OR request_id < ?) \
             ORDER BY created_at DESC, request_id DESC LIMIT ? OFFSET ?"
        ))
        .bind(user.as_str())
        .bind(after.naive_utc())
        .bind(after.naive_utc())
        .bind(after_id)
        .bind(limit)
        .bind(offset);
        self.viewer.fetch_all(query).await?.iter().map(adjusted_of).collect()
    }

    async fn count_adjustments(&self, user: &UserId) -> Result<u64, StoreError> {
        let query = sqlx::query("SELECT COUNT(*) FROM balance_adjustment WHERE user_id = ?").bind(user.as_str());
        let rows = self.viewer.fetch_all(query).await?;
        rows.first().map_or(Ok(0), |row| row.number(0))
    }
}

#[async_trait]
impl Statistics for MySqlStore {
    async fn totals(&self, user: &UserId, span: Option<DaySpan>) -> Result<BTreeMap<ServiceName, Totals>, StoreError> {
        let mut query = QueryBuilder::<MySql>::new(
            "SELECT service_name, CAST(SUM(free_count) AS SIGNED), CAST(SUM(paid_count) AS SIGNED), SUM(amount), \
             CAST(COALESCE(SUM(refunded_free + refunded_paid), 0) AS SIGNED), SUM(refunded_amount) \
             FROM usage_daily WHERE user_id = ",
        );
        query.push_bind(user.as_str().to_owned());
        if let Some(span) = span {
            query.push(" AND usage_date BETWEEN ").push_bind(span.first).push(" AND ").push_bind(span.last);
        }
        query.push(" GROUP BY service_name");
        let rows = self.viewer.fetch_all(query.build()).await?;
        rows.iter().map(service_totals_of).collect()
    }

    async fn daily(&self, user: &UserId, span: DaySpan) -> Result<Vec<DailyUse>, StoreError> {
        let query = sqlx::query(
            "SELECT service_name, usage_date, free_count, paid_count, amount, \
             COALESCE(refunded_free + refunded_paid, 0), refunded_amount FROM usage_daily \
             WHERE user_id = ? AND usage_date BETWEEN ? AND ? ORDER BY service_name, usage_date",
        )
        .bind(user.as_str())
        .bind(span.first)
        .bind(span.last);
        let rows = self.viewer.fetch_all(query).await?;
        rows.iter().map(daily_use_of).collect()
    }
}
