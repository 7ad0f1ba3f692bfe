//! Top-up orders: rows of `recharge_order`.

use async_trait::async_trait;
use sqlx::{MySql, QueryBuilder, mysql::MySqlRow};

use super::{
    MySqlStore,
    reports::LAST,
    statement::{LockMode, Row as StatementRow, Statement},
};
use crate::{
    biz::{
        recharge::order::{Made, OrderFilter, OrderStore},
        settlement::{
            keys::Keys,
            lock::LeftOut,
            order::{Order, PaymentMethod},
            rule::State,
        },
        values::{
            error::StoreError,
            ids::{OrderId, PaymentId, UserId},
            paging::PageStart,
        },
    },
    data::{row::Columns, rows::order::order_of},
};

/// What [`order_of`] reads, in its order.
const COLUMNS: &str = "order_id, user_id, amount, payment_method, status, payment_order_id, payment_url, \
    created_at, updated_at";

#[async_trait]
impl OrderStore for MySqlStore {
    async fn create_order(&self, order: &Order) -> Result<bool, StoreError> {
        let mut insert = Statement::new("INSERT INTO recharge_order (");
        insert.push(COLUMNS).push(") VALUES ").rows([order], |row, order| {
            row.text(order.id.as_str())
                .text(order.user.as_str())
                .money(order.amount)
                .optional(order.method.map(PaymentMethod::name), StatementRow::text)
                .text(order.status.name())
                .optional(order.payment.as_ref().map(PaymentId::as_str), StatementRow::text)
                .optional(order.payment_url.as_deref(), StatementRow::text)
                .instant(order.created_at)
                .instant(order.updated_at);
        });
        let mut connection = self.reader.take().await?;
        let created = insert.execute_unless_taken(&mut connection).await?;
        connection.give_back();
        Ok(created)
    }

    async fn order(&self, id: &OrderId) -> Result<Option<Order>, StoreError> {
        let mut query = select();
        query.push(" WHERE order_id = ").push_bind(id.as_str());
        let rows = self.reader.fetch_all(query.build()).await?;
        rows.first().map(order_of).transpose()
    }

    async fn orders(&self, filter: &OrderFilter, start: &PageStart, limit: u32) -> Result<Vec<Order>, StoreError> {
        let (offset, after, after_id) = match start {
            PageStart::Offset(offset) => (*offset, LAST, ""),
            PageStart::After(cursor) => (0, cursor.created_at, cursor.id.as_str()),
        };
        let mut query = select();
        restrict(&mut query, filter);
        // The first condition is the range that the key is searched by.
        query.push(" AND created_at <= ").push_bind(after.naive_utc());
        query.push(" AND (created_at < ").push_bind(after.naive_utc());
        query.push(" OR order_id < ").push_bind(after_id);
        query.push(") ORDER BY created_at DESC, order_id DESC LIMIT ").push_bind(limit);
        query.push(" OFFSET ").push_bind(offset);
        self.reader.fetch_all(query.build()).await?.iter().map(order_of).collect()
    }

    async fn count_orders(&self, filter: &OrderFilter) -> Result<u64, StoreError> {
        let mut query = QueryBuilder::new("SELECT COUNT(*) FROM recharge_order");
        restrict(&mut query, filter);
        let rows = self.reader.fetch_all(query.build()).await?;
        rows.first().map_or(Ok(0), |row| row.number(0))
    }

    async fn orders_made(&self, made: &Made, after: Option<&Order>, limit: u32) -> Result<Vec<Order>, StoreError> {
        let (from, after_id) = after.map_or((made.from, ""), |last| (last.created_at, last.id.as_str()));
        let mut query = select();
        query.push(" WHERE status = ").push_bind(made.status.name());
        query.push(" AND created_at <= ").push_bind(made.until.naive_utc());
        query.push(" AND created_at >= ").push_bind(from.naive_utc());
        query.push(" AND (created_at > ").push_bind(from.naive_utc());
        query.push(" OR order_id > ").push_bind(after_id);
        query.push(") ORDER BY created_at, order_id LIMIT ").push_bind(limit);
        self.reader.fetch_all(query.build()).await?.iter().map(order_of).collect()
    }
}

fn select() -> QueryBuilder<MySql> {
    let mut query = QueryBuilder::new("SELECT ");
    query.push(COLUMNS).push(" FROM recharge_order");
    query
}

fn restrict(query: &mut QueryBuilder<MySql>, filter: &OrderFilter) {
    query.push(" WHERE user_id = ").push_bind(filter.user.as_str());
    if let Some(status) = filter.status {
        query.push(" AND status = ").push_bind(status.name());
    }
}

/// Locks the orders of the batch, and finds which of its payments an order has already.
/// Their accounts are locked before, so no two batches lock them in different orders.
pub(super) fn lock(statement: &mut Statement, keys: &Keys<'_>, mode: LockMode) {
    statement
        .push("SELECT ")
        .push(COLUMNS)
        .push(" FROM recharge_order WHERE order_id IN (")
        .texts(keys.orders.iter().map(|order| order.as_str()))
        .push(") ORDER BY order_id")
        .push(mode.suffix())
        // NULL is in no list, and keeps an empty one from being an error.
        .push("SELECT payment_order_id, order_id FROM recharge_order WHERE payment_order_id IN (NULL, ")
        .texts(if keys.payments.is_empty() { vec![""] } else { keys.payments.iter().map(|id| id.as_str()).collect() })
        .push("); ");
}

/// The rows of the two statements of [`lock`].
pub(super) fn add_locked(
    state: &mut State,
    left_out: &mut LeftOut,
    orders: &[MySqlRow],
    payments: &[MySqlRow],
) -> Result<(), StoreError> {
    for row in orders {
        let user = UserId::from_stored(row.text(1)?);
        if let Some(order) = left_out.decoded(&user, "recharge_order", order_of(row))? {
            state.orders.insert(order.id.clone(), order);
        }
    }
    for row in payments {
        state.payments.insert(PaymentId::from_stored(row.text(0)?), OrderId::from_stored(row.text(1)?));
    }
    Ok(())
}

/// Reads which of some orders there are, whoever holds their locks.
pub(super) fn read_present(statement: &mut Statement, orders: &[&OrderId]) {
    statement
        .push("SELECT order_id FROM recharge_order WHERE order_id IN (")
        .texts(orders.iter().map(|order| order.as_str()))
        .push("); ");
}

/// Plain updates: an upsert would change the order that has the payment already, instead
/// of failing.
pub(super) fn update(statement: &mut Statement, orders: &[Order]) {
    for order in orders {
        statement
            .push("UPDATE recharge_order SET status = ")
            .texts([order.status.name()])
            .push(", payment_order_id = ");
        statement.optional_text(order.payment.as_ref().map(PaymentId::as_str)).push(", payment_url = ");
        statement.optional_text(order.payment_url.as_deref()).push(", updated_at = ").instant(order.updated_at);
        statement.push(" WHERE order_id = ").texts([order.id.as_str()]).push("; ");
    }
}
