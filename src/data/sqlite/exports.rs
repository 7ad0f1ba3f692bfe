//! The rows of all accounts, page by page.

use async_trait::async_trait;
use serde_json::json;
use sqlx::{Sqlite, query::Query, sqlite::SqliteArguments};

use super::SqliteStore;
use crate::{
    biz::{
        settlement::{order::Order, order_refund::OrderRefund, posting::Adjusted},
        statements::exports::{BookStore, RecordSpan, RowSpan, UserRecord},
        values::{error::StoreError, ids::UserId},
    },
    data::{
        error::store_error,
        row::Columns,
        rows::{
            account::user_of,
            order::{MOST_ORDER_SKEW, order_columns, order_of},
            order_refund::{order_refund_columns, order_refund_of},
            report::record_of,
            transaction::{adjusted_of, adjustment_columns},
        },
    },
};

/// The records of the user ?1 in one table: from ?2 to before ?3, and after the time ?4 and the id ?5.
macro_rules! records_of {
    ($table:literal) => {
        concat!(
            "SELECT user_id, billing_record_id, service_name, type, amount, count, created_at, trace_id, late_of FROM ",
            $table,
            " WHERE user_id = ?1 AND created_at >= ?2 AND created_at < ?3 AND (created_at, billing_record_id) > (?4, ?5)"
        )
    };
}

const RECORDS: &str = concat!(
    "SELECT r.billing_record_id, r.service_name, r.type, r.amount, r.count, r.created_at, r.trace_id, \
     t.api_key_id, t.model, t.input_tokens, t.output_tokens, t.cached_input_tokens, t.record_id, r.late_of, \
     t.cache_write_tokens, t.cache_write_1h_tokens, t.audio_input_tokens, t.reasoning_tokens, t.audio_output_tokens, \
     t.images, t.served_model, COALESCE(t.commit_service_tier, t.service_tier), t.charged_by IS NOT NULL FROM (",
    records_of!("billing_record"),
    " UNION ALL ",
    records_of!("billing_record_archive"),
    " ORDER BY created_at, billing_record_id LIMIT ?6) r \
     LEFT JOIN settled_transaction t ON t.user_id = r.user_id AND t.trace_id = r.trace_id \
     ORDER BY r.created_at, r.billing_record_id"
);

/// The column of whether a broken stream reported the usage, behind those of a record.
const IS_REPORTED: usize = 22;

/// The rows of the users ?1 whose time is from ?2 to before ?3, and behind the id ?5 of the user ?4; at most ?6. The
/// plus keeps SQLite from the order of the primary key, in which it would read all rows of a user.
macro_rules! rows_of {
    ($columns:expr, $table:literal, $id:literal, $between:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM ",
            $table,
            " WHERE user_id IN (SELECT value FROM json_each(?1)) AND ",
            $between,
            " AND (?5 IS NULL OR user_id <> ?4 OR ",
            $id,
            " > ?5) ORDER BY user_id, +",
            $id,
            " LIMIT ?6"
        )
    };
}

/// ?7 is the earliest last change, a range of idx_order_user_updated.
const ORDERS: &str = rows_of!(
    order_columns!(),
    "recharge_order",
    "order_id",
    "updated_at >= ?7 \
     AND iif(status IN ('success', 'refunded'), COALESCE(credited_at, updated_at), created_at) >= ?2 \
     AND iif(status IN ('success', 'refunded'), COALESCE(credited_at, updated_at), created_at) < ?3"
);
const ORDER_REFUNDS: &str = rows_of!(
    order_refund_columns!(),
    "recharge_refund",
    "refund_id",
    "((settled_at >= ?2 AND settled_at < ?3) OR (settled_at IS NULL AND created_at >= ?2 AND created_at < ?3))"
);
const ADJUSTMENTS: &str =
    rows_of!(adjustment_columns!(), "balance_adjustment", "adjustment_id", "created_at >= ?2 AND created_at < ?3");

/// Binds the first six parameters.
fn bound(sql: &'static str, span: RowSpan<'_>, limit: u32) -> Query<'static, Sqlite, SqliteArguments> {
    let users: Vec<_> = span.users.iter().map(UserId::as_str).collect();
    sqlx::query(sql)
        .bind(json!(users).to_string())
        .bind(span.between.0.timestamp_micros())
        .bind(span.between.1.timestamp_micros())
        .bind(span.users.first().map(ToString::to_string))
        .bind(span.after.map(ToOwned::to_owned))
        .bind(limit)
}

#[async_trait]
impl BookStore for SqliteStore {
    async fn users(&self, after: Option<&UserId>, limit: u32) -> Result<Vec<UserId>, StoreError> {
        let query = sqlx::query("SELECT user_id FROM user_balance WHERE user_id > ? ORDER BY user_id LIMIT ?")
            .bind(after.map_or("", UserId::as_str))
            .bind(limit);
        let rows = query.fetch_all(&self.reader).await.map_err(store_error)?;
        rows.iter().map(user_of).collect()
    }

    async fn records_of(&self, span: RecordSpan<'_>, limit: u32) -> Result<Vec<UserRecord>, StoreError> {
        let (mut found, mut after) = (Vec::new(), span.after);
        for user in span.users {
            let left = limit.saturating_sub(u32::try_from(found.len()).unwrap_or(limit));
            if left == 0 {
                break;
            }
            let (after_time, after_id) = match after.take() {
                Some(cursor) => (cursor.created_at.timestamp_micros(), cursor.id.as_str()),
                None => (i64::MIN, ""),
            };
            let query = sqlx::query(RECORDS)
                .bind(user.as_str())
                .bind(span.between.0.timestamp_micros())
                .bind(span.between.1.timestamp_micros())
                .bind(after_time)
                .bind(after_id)
                .bind(left);
            for row in query.fetch_all(&self.reader).await.map_err(store_error)? {
                let is_reported = row.number::<u8>(IS_REPORTED)? == 1;
                found.push(UserRecord { user: user.clone(), record: record_of(&row)?, is_reported });
            }
        }
        Ok(found)
    }

    async fn payers(&self, after: Option<&UserId>, limit: u32) -> Result<Vec<UserId>, StoreError> {
        let query =
            sqlx::query("SELECT DISTINCT user_id FROM recharge_order WHERE user_id > ? ORDER BY user_id LIMIT ?")
                .bind(after.map_or("", UserId::as_str))
                .bind(limit);
        let rows = query.fetch_all(&self.reader).await.map_err(store_error)?;
        rows.iter().map(user_of).collect()
    }

    async fn orders_of(&self, span: RowSpan<'_>, limit: u32) -> Result<Vec<Order>, StoreError> {
        let query = bound(ORDERS, span, limit).bind((span.between.0 - MOST_ORDER_SKEW).timestamp_micros());
        let rows = query.fetch_all(&self.reader).await.map_err(store_error)?;
        rows.iter().map(order_of).collect()
    }

    async fn order_refunds_of(&self, span: RowSpan<'_>, limit: u32) -> Result<Vec<OrderRefund>, StoreError> {
        let rows = bound(ORDER_REFUNDS, span, limit).fetch_all(&self.reader).await.map_err(store_error)?;
        rows.iter().map(order_refund_of).collect()
    }

    async fn adjustments_of(&self, span: RowSpan<'_>, limit: u32) -> Result<Vec<Adjusted>, StoreError> {
        let rows = bound(ADJUSTMENTS, span, limit).fetch_all(&self.reader).await.map_err(store_error)?;
        rows.iter().map(adjusted_of).collect()
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::data::sqlite::tests::{empty_store, searches};

    #[tokio::test]
    async fn an_export_reads_ranges_of_its_users_and_days() {
        let (store, _folder) = empty_store().await;
        let (start, end) = (chrono::DateTime::UNIX_EPOCH, chrono::DateTime::UNIX_EPOCH + TimeDelta::days(1));
        let span = RowSpan { users: &[UserId::from_stored("u")], between: (start, end), after: None };
        for (sql, range) in [
            (ORDERS, "(user_id=? AND updated_at>?)"),
            (ORDER_REFUNDS, "(user_id=?)"),
            (ADJUSTMENTS, "(user_id=? AND created_at>? AND created_at<?)"),
        ] {
            let plan = format!("EXPLAIN QUERY PLAN {sql}").leak();
            let query = bound(plan, span, 1);
            let query = if sql == ORDERS { query.bind(0) } else { query };
            let searches = searches(&query.fetch_all(&store.reader).await.unwrap());
            assert!(searches.len() == 1 && searches[0].ends_with(range), "{searches:?}");
        }
    }
}
