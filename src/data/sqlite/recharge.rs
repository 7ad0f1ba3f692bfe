//! Top-up orders, in the table `recharge_order`, and their refunds, in `recharge_refund`.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::{
    SqliteStore,
    account::accounts,
    writer::{commit, found, writer_error},
};
use crate::{
    biz::{
        recharge::{
            matching::SettlementStore,
            order::{Created, OrderFilter, OrderScan, OrderStore, RefundScan, fits},
        },
        settlement::{
            keys::Keys,
            lock::LeftOut,
            order::{Order, OrderStatus, PaymentMethod},
            order_refund::OrderRefund,
            posting::Batch,
            rule::State,
        },
        values::{
            error::StoreError,
            ids::{IdempotencyKey, OrderId, PaymentId, RefundId, UserId},
            money::Money,
            paging::PageStart,
        },
    },
    data::{
        error::store_error,
        row::Columns,
        rows::{
            order::{order_columns, order_of},
            order_refund::{order_refund_columns, order_refund_of},
        },
    },
};

/// Selects orders in the columns of [`order_of`]; conditions follow.
macro_rules! select {
    ($conditions:literal) => {
        concat!("SELECT ", order_columns!(), " FROM recharge_order WHERE ", $conditions)
    };
}

/// Selects refunds in the columns of [`order_refund_of`]; conditions follow.
macro_rules! select_refund {
    ($conditions:literal) => {
        concat!("SELECT ", order_refund_columns!(), " FROM recharge_refund WHERE ", $conditions)
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

    async fn order_of_payment(&self, payment: &PaymentId) -> Result<Option<Order>, StoreError> {
        let query = sqlx::query(select!("payment_order_id = ?")).bind(payment.as_str());
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

    async fn order_refund(&self, id: &RefundId) -> Result<Option<OrderRefund>, StoreError> {
        let query = sqlx::query(select_refund!("refund_id = ?")).bind(id.as_str());
        let row = query.fetch_optional(&self.reader).await.map_err(store_error)?;
        row.as_ref().map(order_refund_of).transpose()
    }

    async fn scan_refunds(
        &self,
        scan: &RefundScan,
        after: Option<&OrderRefund>,
        limit: u32,
    ) -> Result<Vec<OrderRefund>, StoreError> {
        let (from, after_id) = after.map_or((scan.from, ""), |last| (last.updated_at, last.id.as_str()));
        let query = sqlx::query(select_refund!(
            "status = ? AND updated_at <= ? AND (updated_at, refund_id) > (?, ?) ORDER BY updated_at, refund_id LIMIT ?"
        ))
        .bind(scan.status.name())
        .bind(scan.until.timestamp_micros())
        .bind(from.timestamp_micros())
        .bind(after_id)
        .bind(limit);
        let rows = query.fetch_all(&self.reader).await.map_err(store_error)?;
        rows.iter().map(order_refund_of).collect()
    }
}

#[async_trait]
impl SettlementStore for SqliteStore {
    async fn credited_orders(
        &self,
        (from, before): (DateTime<Utc>, DateTime<Utc>),
        after: Option<&OrderId>,
        limit: u32,
    ) -> Result<Vec<Order>, StoreError> {
        let query = sqlx::query(select!(
            "order_id > ? AND status IN ('success', 'refunded') AND COALESCE(credited_at, updated_at) >= ? \
             AND COALESCE(credited_at, updated_at) < ? ORDER BY order_id LIMIT ?"
        ))
        .bind(after.map_or("", OrderId::as_str))
        .bind(from.timestamp_micros())
        .bind(before.timestamp_micros())
        .bind(limit);
        let rows = query.fetch_all(&self.reader).await.map_err(store_error)?;
        rows.iter().map(order_of).collect()
    }

    async fn debited_refunds(
        &self,
        (from, before): (DateTime<Utc>, DateTime<Utc>),
        after: Option<&RefundId>,
        limit: u32,
    ) -> Result<Vec<OrderRefund>, StoreError> {
        let query = sqlx::query(select_refund!(
            "refund_id > ? AND settled_at >= ? AND settled_at < ? ORDER BY refund_id LIMIT ?"
        ))
        .bind(after.map_or("", RefundId::as_str))
        .bind(from.timestamp_micros())
        .bind(before.timestamp_micros())
        .bind(limit);
        let rows = query.fetch_all(&self.reader).await.map_err(store_error)?;
        rows.iter().map(order_refund_of).collect()
    }
}

/// The transaction is immediate, so no other write happens until the commit.
fn create(connection: &mut Connection, order: &Order, replaces: Option<&OrderId>) -> Result<Created, StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(writer_error)?;
    let account = accounts::balance(&transaction, &order.user)?.unwrap_or_default().0;
    if !account.status.is_active() {
        return Ok(Created::NotActive(account.status));
    }
    let pending = transaction.query_row(
        "SELECT COALESCE(SUM(amount), 0) FROM recharge_order WHERE status = 'pending' AND user_id = ?",
        [order.user.as_str()],
        |row| row.get(0),
    );
    let pending = Money::from_micros(pending.map_err(writer_error)?);
    if !fits(account.amount, pending, order.amount) {
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
         payment_url, created_at, updated_at, idempotency_key, refunded_amount, refunding_amount, credited_at) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
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
            order.refunded.micros(),
            order.refunding.micros(),
            order.credited_at.map(|at| at.timestamp_micros()),
        ],
    );
    if inserted.map_err(writer_error)? != 1 {
        return Ok(Created::Taken);
    }
    commit(transaction)?;
    Ok(Created::Stored)
}

/// Loads the orders and refunds of the batch, and finds the payments of the batch that orders already
/// have.
pub(super) fn load(
    transaction: &Transaction<'_>,
    batch: &Batch,
    keys: &Keys<'_>,
    (state, left_out): (&mut State, &mut LeftOut),
) -> Result<(), StoreError> {
    let mut find = transaction.prepare_cached(select!("order_id = ?")).map_err(writer_error)?;
    for posting in &batch.postings {
        let (user, Some(id)) = (posting.user(), posting.order()) else { continue };
        let order = found(&mut find, [id.as_str()], |row| order_of(row));
        if let Some(order) = left_out.decoded(user, "recharge_order", order)?.flatten() {
            state.orders.insert(id.clone(), order);
        }
    }
    let mut find = transaction
        .prepare_cached("SELECT order_id, status FROM recharge_order WHERE payment_order_id = ?")
        .map_err(writer_error)?;
    for &payment in &keys.payments {
        let order = found(&mut find, [payment.as_str()], |row| Ok((row.text(0)?, row.text(1)?)))?;
        let Some((order, status)) = order else { continue };
        state.payments.insert(payment.clone(), OrderId::from_stored(order));
        if status.parse::<OrderStatus>().is_ok_and(OrderStatus::is_credited) {
            state.credited_payments.insert(payment.clone());
        }
    }
    let mut find = transaction.prepare_cached(select_refund!("refund_id = ?")).map_err(writer_error)?;
    for posting in &batch.postings {
        let Some(id) = posting.order_refund() else { continue };
        let refund = found(&mut find, [id.as_str()], |row| order_refund_of(row));
        if let Some(refund) = left_out.decoded(posting.user(), "recharge_refund", refund)?.flatten() {
            state.order_refunds.insert(id.clone(), refund);
        }
    }
    Ok(())
}

pub(super) fn update(transaction: &Transaction<'_>, orders: &[Order]) -> rusqlite::Result<()> {
    let mut update = transaction.prepare_cached(
        "UPDATE recharge_order SET status = ?, payment_order_id = ?, payment_url = ?, refunded_amount = ?, \
         refunding_amount = ?, credited_at = ?, updated_at = ? WHERE order_id = ?",
    )?;
    for order in orders {
        update.execute(params![
            order.status.name(),
            order.payment.as_ref().map(PaymentId::as_str),
            order.payment_url,
            order.refunded.micros(),
            order.refunding.micros(),
            order.credited_at.map(|at| at.timestamp_micros()),
            order.updated_at.timestamp_micros(),
            order.id.as_str(),
        ])?;
    }
    Ok(())
}

/// Plain inserts, so that an id in use fails.
pub(super) fn insert_refunds(transaction: &Transaction<'_>, refunds: &[OrderRefund]) -> rusqlite::Result<()> {
    for refund in refunds {
        let mut insert = transaction.prepare_cached(
            "INSERT INTO recharge_refund (refund_id, order_id, user_id, kind, status, amount, asked_amount, is_forced, \
             reason, request_id, balance_after, created_at, updated_at, settled_at) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?;
        insert.execute(params![
            refund.id.as_str(),
            refund.order.as_str(),
            refund.user.as_str(),
            refund.kind.name(),
            refund.status.name(),
            refund.amount.micros(),
            refund.asked.map(Money::micros),
            refund.is_forced,
            refund.reason,
            refund.request.to_string(),
            refund.balance_after.micros(),
            refund.created_at.timestamp_micros(),
            refund.updated_at.timestamp_micros(),
            refund.settled_at.map(|at| at.timestamp_micros()),
        ])?;
    }
    Ok(())
}

pub(super) fn update_refunds(transaction: &Transaction<'_>, refunds: &[OrderRefund]) -> rusqlite::Result<()> {
    for refund in refunds {
        let mut update = transaction.prepare_cached(
            "UPDATE recharge_refund SET status = ?, balance_after = ?, updated_at = ?, settled_at = ? \
             WHERE refund_id = ?",
        )?;
        update.execute(params![
            refund.status.name(),
            refund.balance_after.micros(),
            refund.updated_at.timestamp_micros(),
            refund.settled_at.map(|at| at.timestamp_micros()),
            refund.id.as_str(),
        ])?;
    }
    Ok(())
}
