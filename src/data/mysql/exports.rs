//! The rows of all accounts, page by page.

use async_trait::async_trait;
use sqlx::mysql::MySqlRow;

use super::{
    MySqlStore,
    record_transactions::{record_columns, settled, with_content, with_transactions},
    statement::Statement,
};
use crate::{
    biz::{
        settlement::{order::Order, order_refund::OrderRefund, posting::Adjusted},
        statements::exports::{BookStore, RecordSpan, RowSpan, UserRecord},
        values::{error::StoreError, ids::UserId},
    },
    data::{
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

/// The columns of the user, and of whether a broken stream reported the usage, behind those of a record.
const USER: usize = 22;
const IS_REPORTED: usize = 23;

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
        rows.map(user_record_of).collect()
    }

    async fn payers(&self, after: Option<&UserId>, limit: u32) -> Result<Vec<UserId>, StoreError> {
        let query =
            sqlx::query("SELECT DISTINCT user_id FROM recharge_order WHERE user_id > ? ORDER BY user_id LIMIT ?")
                .bind(after.map_or("", UserId::as_str))
                .bind(limit);
        self.viewer.fetch_all(query).await?.iter().map(user_of).collect()
    }

    async fn orders_of(&self, span: RowSpan<'_>, limit: u32) -> Result<Vec<Order>, StoreError> {
        let (start, end) = span.between;
        let mut statement = Statement::new(concat!("SELECT ", order_columns!(), " FROM recharge_order"));
        // The first condition is a range of idx_user_updated.
        of_users(&mut statement, span).push(" AND updated_at >= ").instant(start - MOST_ORDER_SKEW);
        statement.push(" AND IF(status IN ('success', 'refunded'), COALESCE(credited_at, updated_at), created_at) >= ");
        statement.instant(start);
        statement.push(" AND IF(status IN ('success', 'refunded'), COALESCE(credited_at, updated_at), created_at) < ");
        statement.instant(end);
        in_order(&mut statement, "order_id", span, limit);
        self.viewer.fetch(statement).await?.iter().flatten().map(order_of).collect()
    }

    async fn order_refunds_of(&self, span: RowSpan<'_>, limit: u32) -> Result<Vec<OrderRefund>, StoreError> {
        let (start, end) = span.between;
        let mut statement = Statement::new(concat!("SELECT ", order_refund_columns!(), " FROM recharge_refund"));
        // Two ranges of idx_user_settled.
        of_users(&mut statement, span).push(" AND ((settled_at >= ").instant(start);
        statement.push(" AND settled_at < ").instant(end).push(") OR (settled_at IS NULL AND created_at >= ");
        statement.instant(start).push(" AND created_at < ").instant(end).push("))");
        in_order(&mut statement, "refund_id", span, limit);
        self.viewer.fetch(statement).await?.iter().flatten().map(order_refund_of).collect()
    }

    async fn adjustments_of(&self, span: RowSpan<'_>, limit: u32) -> Result<Vec<Adjusted>, StoreError> {
        let (start, end) = span.between;
        let mut statement = Statement::new(concat!("SELECT ", adjustment_columns!(), " FROM balance_adjustment"));
        // A range of idx_user_created.
        of_users(&mut statement, span)
            .push(" AND created_at >= ")
            .instant(start)
            .push(" AND created_at < ")
            .instant(end);
        in_order(&mut statement, "adjustment_id", span, limit);
        self.viewer.fetch(statement).await?.iter().flatten().map(adjusted_of).collect()
    }
}

fn of_users<'s>(statement: &'s mut Statement, span: RowSpan<'_>) -> &'s mut Statement {
    statement.push(" WHERE user_id IN (").texts(span.users.iter().map(UserId::as_str)).push(")")
}

/// The rows behind the last one that was read, by user and by the id in a column.
fn in_order(statement: &mut Statement, id: &'static str, span: RowSpan<'_>, limit: u32) {
    if let (Some(last), Some(user)) = (span.after, span.users.first()) {
        statement.push(" AND (user_id <> ").texts([user.as_str()]);
        statement.push(" OR ").push(id).push(" > ").texts([last]).push(")");
    }
    statement.push(" ORDER BY user_id, ").push(id).push(" LIMIT ").number(limit);
}

fn user_record_of(row: &MySqlRow) -> Result<UserRecord, StoreError> {
    let (user, is_reported) = (UserId::from_stored(row.text(USER)?), row.number::<u8>(IS_REPORTED)? == 1);
    Ok(UserRecord { user, record: record_of(row)?, is_reported })
}

/// The records of a span in both tables, with the columns of their transactions. Each user is a range of the
/// key, so the read ends with the last record of the page.
fn records(span: RecordSpan<'_>, limit: u32) -> Statement {
    let mut statement = Statement::new(concat!(
        "SELECT ",
        record_columns!(),
        ", r.user_id, ",
        settled!("charged_by"),
        " IS NOT NULL FROM ("
    ));
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
    statement.push(concat!(") r ", with_transactions!(), " ORDER BY r.user_id, r.created_at, r.billing_record_id"));
    statement
}
