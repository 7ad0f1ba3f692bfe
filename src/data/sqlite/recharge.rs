//! Top-up orders, in the table `recharge_order`.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::{
    SqliteStore,
    writer::{found, writer_error},
};
use crate::{
    biz::{
        recharge::order::{Created, OrderFilter, OrderScan, OrderStore, fits},
        settlement::{
            keys::Keys,
            lock::LeftOut,
            order::{Order, OrderStatus, PaymentMethod},
            posting::{Batch, OrderUpdate, Posting},
            rule::State,
        },
        values::{
            error::StoreError,
            ids::{IdempotencyKey, OrderId, PaymentId, UserId},
            money::Money,
            paging::PageStart,
        },
    },
    data::{error::store_error, row::Columns, rows::order::order_of},
};

/// Selects orders in the columns of [`order_of`]; conditions follow.
macro_rules! select {
    ($conditions:literal) => {
        concat!(
            "SELECT order_id, user_id, amount, payment_method, status, payment_order_id, payment_url, created_at, \
             updated_at, idempotency_key FROM recharge_order WHERE ",
            $conditions
        )
    };
}

#[async_trait]
impl OrderStore for SqliteStore {
    async fn create_order(&self, order: &Order, replaces: Option<&OrderId>) -> Result<Created, StoreError> {
        let (order, replaces) = (order.clone(), replaces.cloned());
        self.writer.run(move |connection| create(connection, &order, replaces.as_ref())).await
    }

    async fn order_of_key(&self, user: &UserId, key: &IdempotencyKey) -> Result<Option<Order>, StoreError> {
        let query = sqlx::query(select!("user_id = ? AND idempotency_key = ?")).bind(user.as_str()).bind(key.as_str());
        let row = query.fetch_optional(&self.reader).await.map_err(store_error)?;
        row.as_ref().map(order_of).transpose()
    }

    async fn order(&self, id: &OrderId) -> Result<Option<Order>, StoreError> {
        let query = sqlx::query(select!("order_id = ?")).bind(id.as_str());
        let row = query.fetch_optional(&self.reader).await.map_err(store_error)?;
        row.as_ref().map(order_of).transpose()
    }

    async fn orders(&self, filter: &OrderFilter, start: &PageStart, limit: u32) -> Result<Vec<Order>, StoreError> {
        let (offset, after, after_id) = match start {
            PageStart::Offset(offset) => (*offset, i64::MAX, ""),
            PageStart::After(cursor) => (0, cursor.created_at.timestamp_micros(), cursor.id.as_str()),
        };
        let query = sqlx::query(select!(
            "user_id = ?1 AND (?2 IS NULL OR status = ?2) AND (created_at, order_id) < (?3, ?4) \
             ORDER BY created_at DESC, order_id DESC LIMIT ?5 OFFSET ?6"
        ))
        .bind(filter.user.as_str())
        .bind(filter.status.map(OrderStatus::name))
        .bind(after)
        .bind(after_id)
        .bind(limit)
        .bind(offset);
        let rows = query.fetch_all(&self.reader).await.map_err(store_error)?;
        rows.iter().map(order_of).collect()
    }

    async fn count_orders(&self, filter: &OrderFilter) -> Result<u64, StoreError> {
        let query =
            sqlx::query("SELECT COUNT(*) FROM recharge_order WHERE user_id = ?1 AND (?2 IS NULL OR status = ?2)")
                .bind(filter.user.as_str())
                .bind(filter.status.map(OrderStatus::name));
        query.fetch_one(&self.reader).await.map_err(store_error)?.number(0)
    }

    async fn scan_orders(&self, scan: &OrderScan, after: Option<&Order>, limit: u32) -> Result<Vec<Order>, StoreError> {
        let (from, after_id) = after.map_or((scan.from, ""), |last| (last.created_at, last.id.as_str()));
        let query = sqlx::query(select!(
            "status = ? AND created_at <= ? AND (created_at, order_id) > (?, ?) ORDER BY created_at, order_id LIMIT ?"
        ))
        .bind(scan.status.name())
        .bind(scan.until.timestamp_micros())
        .bind(from.timestamp_micros())
        .bind(after_id)
        .bind(limit);
        let rows = query.fetch_all(&self.reader).await.map_err(store_error)?;
        rows.iter().map(order_of).collect()
    }
}

/// The transaction is immediate, so no other write happens until the commit.
fn create(connection: &mut Connection, order: &Order, replaces: Option<&OrderId>) -> Result<Created, StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(writer_error)?;
    let sum = |sql| {
        let sum = transaction.query_row(sql, [order.user.as_str()], |row| row.get::<_, i64>(0));
        sum.optional().map_err(writer_error).map(|micros| Money::from_micros(micros.unwrap_or_default()))
    };
    let balance = sum("SELECT balance FROM user_balance WHERE user_id = ?")?;
    let pending = sum("SELECT COALESCE(SUM(amount), 0) FROM recharge_order WHERE status = 'pending' AND user_id = ?")?;
    if !fits(balance, pending, order.amount) {
        return Ok(Created::TooMuch);
    }
    let key = order.idempotency_key.as_ref().map(IdempotencyKey::as_str);
    if let Some(replaced) = replaces {
        // A failed order without a page that has the key.
        let passed_on = transaction.execute(
            "UPDATE recharge_order SET idempotency_key = NULL \
             WHERE order_id = ? AND status = 'failed' AND payment_url IS NULL AND idempotency_key = ?",
            params![replaced.as_str(), key],
        );
        if passed_on.map_err(writer_error)? != 1 {
            return Ok(Created::Taken);
        }
    }
    let inserted = transaction.execute(
        "INSERT INTO recharge_order (order_id, user_id, amount, payment_method, status, payment_order_id, \
         payment_url, created_at, updated_at, idempotency_key) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
         ON CONFLICT DO NOTHING",
        params![
            order.id.as_str(),
            order.user.as_str(),
            order.amount.micros(),
            order.method.map(PaymentMethod::name),
            order.status.name(),
            order.payment.as_ref().map(PaymentId::as_str),
            order.payment_url,
            order.created_at.timestamp_micros(),
            order.updated_at.timestamp_micros(),
            key,
        ],
    );
    if inserted.map_err(writer_error)? != 1 {
        return Ok(Created::Taken);
    }
    transaction.commit().map_err(|error| StoreError::Unavailable(format!("during commit: {error}").into()))?;
    Ok(Created::Stored)
}

/// Loads the orders of the batch, and finds the payments of the batch that orders already have.
pub(super) fn load(
    transaction: &Transaction<'_>,
    batch: &Batch,
    keys: &Keys<'_>,
    (state, left_out): (&mut State, &mut LeftOut),
) -> Result<(), StoreError> {
    let mut find = transaction.prepare_cached(select!("order_id = ?")).map_err(writer_error)?;
    for posting in &batch.postings {
        let Posting::UpdateOrder(OrderUpdate { user, order: id, .. }) = posting else { continue };
        let order = found(&mut find, [id.as_str()], |row| order_of(row));
        if let Some(order) = left_out.decoded(user, "recharge_order", order)?.flatten() {
            state.orders.insert(id.clone(), order);
        }
    }
    let mut find = transaction
        .prepare_cached("SELECT order_id FROM recharge_order WHERE payment_order_id = ?")
        .map_err(writer_error)?;
    for &payment in &keys.payments {
        if let Some(order) = found(&mut find, [payment.as_str()], |row| row.text(0))? {
            state.payments.insert(payment.clone(), OrderId::from_stored(order));
        }
    }
    Ok(())
}

pub(super) fn update(transaction: &Transaction<'_>, orders: &[Order]) -> rusqlite::Result<()> {
    let mut update = transaction.prepare_cached(
        "UPDATE recharge_order SET status = ?, payment_order_id = ?, payment_url = ?, updated_at = ? \
         WHERE order_id = ?",
    )?;
    for order in orders {
        update.execute(params![
            order.status.name(),
            order.payment.as_ref().map(PaymentId::as_str),
            order.payment_url,
            order.updated_at.timestamp_micros(),
            order.id.as_str(),
        ])?;
    }
    Ok(())
}
