//! The rows of all accounts, page by page.

use async_trait::async_trait;

use super::{MySqlStore, statement::Statement};
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
        row::Columns,
        rows::{
            account::user_of,
            order::{order_columns, order_of},
            order_refund::{order_refund_columns, order_refund_of},
            report::record_of,
            transaction::{adjusted_of, adjustment_columns},
        },
    },
};

/// The column of the user, behind those of a record.
const USER: usize = 22;

#[async_trait]
impl BookStore for MySqlStore {
    async fn users(&self, after: Option<&UserId>, limit: u32) -> Result<Vec<UserId>, StoreError> {
        let query = sqlx::query("SELECT user_id FROM user_balance WHERE user_id > ? ORDER BY user_id LIMIT ?")
            .bind(after.map_or("", UserId::as_str))
            .bind(limit);
        self.viewer.fetch_all(query).await?.iter().map(user_of).collect()
    }

    async fn records_of(&self, span: RecordSpan<'_>, limit: u32) -> Result<Vec<UserRecord>, StoreError> {
        let sets = self.viewer.fetch(records(span, limit)).await?;
        let rows = sets.iter().flatten();
        rows.map(|row| Ok(UserRecord { user: UserId::from_stored(row.text(USER)?), record: record_of(row)? })).collect()
    }

    async fn all_orders(&self, after: Option<&OrderId>, limit: u32) -> Result<Vec<Order>, StoreError> {
        let query = sqlx::query(concat!(
            "SELECT ",
            order_columns!(),
            " FROM recharge_order WHERE order_id > ? ORDER BY order_id LIMIT ?"
        ))
        .bind(after.map_or("", OrderId::as_str))
        .bind(limit);
        self.viewer.fetch_all(query).await?.iter().map(order_of).collect()
    }

    async fn all_order_refunds(&self, after: Option<&RefundId>, limit: u32) -> Result<Vec<OrderRefund>, StoreError> {
        let query = sqlx::query(concat!(
            "SELECT ",
            order_refund_columns!(),
            " FROM recharge_refund WHERE refund_id > ? ORDER BY refund_id LIMIT ?"
        ))
        .bind(after.map_or("", RefundId::as_str))
        .bind(limit);
        self.viewer.fetch_all(query).await?.iter().map(order_refund_of).collect()
    }

    async fn all_adjustments(&self, after: Option<&Adjusted>, limit: u32) -> Result<Vec<Adjusted>, StoreError> {
        let (user, id) = after.map_or(("", ""), |last| (last.user.as_str(), last.id.as_str()));
        // The first condition limits the range of the key; the second one is exact.
        let query = sqlx::query(concat!(
            "SELECT ",
            adjustment_columns!(),
            " FROM balance_adjustment WHERE user_id >= ? AND (user_id > ? OR adjustment_id > ?) \
             ORDER BY user_id, adjustment_id LIMIT ?"
        ))
        .bind(user)
        .bind(user)
        .bind(id)
        .bind(limit);
        self.viewer.fetch_all(query).await?.iter().map(adjusted_of).collect()
    }
}

/// The records of a span in both tables, with the columns of their transactions. Each user is a range of the
/// key, so the read ends with the last record of the page.
fn records(span: RecordSpan<'_>, limit: u32) -> Statement {
    let mut statement = Statement::new(
        "SELECT r.billing_record_id, r.service_name, r.type, r.amount, r.count, r.created_at, r.trace_id, \
         t.api_key_id, t.model, t.input_tokens, t.output_tokens, t.cached_input_tokens, t.record_id, r.late_of, \
         t.cache_write_tokens, t.cache_write_1h_tokens, t.audio_input_tokens, t.reasoning_tokens, t.audio_output_tokens, \
         t.images, t.served_model, COALESCE(t.commit_service_tier, t.service_tier), r.user_id FROM (",
    );
    for (index, table) in ["billing_record", "billing_record_archive"].into_iter().enumerate() {
        statement.push(if index == 0 { "(" } else { " UNION ALL (" });
        statement.push(
            "SELECT user_id, billing_record_id, service_name, type, amount, count, created_at, trace_id, late_of FROM ",
        );
        statement.push(table).push(" WHERE user_id IN (").texts(span.users.iter().map(UserId::as_str));
        statement.push(") AND created_at >= ").instant(span.between.0);
        statement.push(" AND created_at < ").instant(span.between.1);
        if let (Some(cursor), Some(user)) = (span.after, span.users.first()) {
            statement.push(" AND (user_id <> ").texts([user.as_str()]).push(" OR created_at > ");
            statement.instant(cursor.created_at).push(" OR (created_at = ").instant(cursor.created_at);
            statement.push(" AND billing_record_id > ").texts([cursor.id.as_str()]).push("))");
        }
        statement.push(" ORDER BY user_id, created_at, billing_record_id LIMIT ").number(limit).push(")");
    }
    statement.push(" ORDER BY user_id, created_at, billing_record_id LIMIT ").number(limit);
    statement.push(
        ") r LEFT JOIN billing_transaction t ON t.user_id = r.user_id AND t.trace_id = r.trace_id \
         ORDER BY r.user_id, r.created_at, r.billing_record_id",
    );
    statement
}
