//! The rows of all accounts, page by page.

use async_trait::async_trait;

use super::SqliteStore;
use crate::{
    biz::{
        settlement::{order::Order, order_refund::OrderRefund, posting::Adjusted},
        statements::exports::{BookStore, RecordSpan, UserRecord},
        values::{
            error::StoreError,
            ids::{OrderId, RefundId, UserId},
        },
    },
    data::{
        error::store_error,
        rows::{
            account::user_of,
            order::{order_columns, order_of},
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
     t.images, t.served_model, COALESCE(t.commit_service_tier, t.service_tier) FROM (",
    records_of!("billing_record"),
    " UNION ALL ",
    records_of!("billing_record_archive"),
    " ORDER BY created_at, billing_record_id LIMIT ?6) r \
     LEFT JOIN billing_transaction t ON t.user_id = r.user_id AND t.trace_id = r.trace_id \
     ORDER BY r.created_at, r.billing_record_id"
);

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
                found.push(UserRecord { user: user.clone(), record: record_of(&row)? });
            }
        }
        Ok(found)
    }

    async fn all_orders(&self, after: Option<&OrderId>, limit: u32) -> Result<Vec<Order>, StoreError> {
        let query = sqlx::query(concat!(
            "SELECT ",
            order_columns!(),
            " FROM recharge_order WHERE order_id > ? ORDER BY order_id LIMIT ?"
        ))
        .bind(after.map_or("", OrderId::as_str))
        .bind(limit);
        let rows = query.fetch_all(&self.reader).await.map_err(store_error)?;
        rows.iter().map(order_of).collect()
    }

    async fn all_order_refunds(&self, after: Option<&RefundId>, limit: u32) -> Result<Vec<OrderRefund>, StoreError> {
        let query = sqlx::query(concat!(
            "SELECT ",
            order_refund_columns!(),
            " FROM recharge_refund WHERE refund_id > ? ORDER BY refund_id LIMIT ?"
        ))
        .bind(after.map_or("", RefundId::as_str))
        .bind(limit);
        let rows = query.fetch_all(&self.reader).await.map_err(store_error)?;
        rows.iter().map(order_refund_of).collect()
    }

    async fn all_adjustments(&self, after: Option<&Adjusted>, limit: u32) -> Result<Vec<Adjusted>, StoreError> {
        let (user, id) = after.map_or(("", ""), |last| (last.user.as_str(), last.id.as_str()));
        let query = sqlx::query(concat!(
            "SELECT ",
            adjustment_columns!(),
            " FROM balance_adjustment WHERE (user_id, adjustment_id) > (?, ?) ORDER BY user_id, adjustment_id LIMIT ?"
        ))
        .bind(user)
        .bind(id)
        .bind(limit);
        let rows = query.fetch_all(&self.reader).await.map_err(store_error)?;
        rows.iter().map(adjusted_of).collect()
    }
}
