//! Top-up orders, in the table `recharge_order`, and their refunds, in `recharge_refund`.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use sqlx::{MySql, QueryBuilder, mysql::MySqlRow};
use uuid::Uuid;

use super::{
    MySqlStore,
    account::accounts,
    connections::Lease,
    reports::LAST,
    statement::{LockMode, OnNode, Row as StatementRow, Statement},
    unapplied,
};
use crate::{
    biz::{
        account::Balance,
        recharge::{
            matching::SettlementStore,
            order::{Created, OrderFilter, OrderScan, OrderStore, RefundScan, fits},
        },
        settlement::{
            keys::Keys,
            lock::{LeftOut, Lock, Obstacle},
            order::{Order, OrderStatus, PaymentMethod},
            order_refund::OrderRefund,
            posting::{Batch, Posting},
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
        error::corrupt,
        row::Columns,
        rows::{
            account::balance_of,
            order::{order_columns, order_of},
            order_refund::{order_refund_columns, order_refund_of},
        },
    },
};

const COLUMNS: &str = order_columns!();
const REFUND_COLUMNS: &str = order_refund_columns!();

#[async_trait]
impl OrderStore for MySqlStore {
    async fn create_order(&self, order: &Order, replaces: Option<&OrderId>) -> Result<Created, StoreError> {
        let lock = Uuid::now_v7();
        let (mut connection, account, pending) = self.lock_account(order, lock).await?;
        let created = if !account.status.is_active() {
            Created::NotActive(account.status)
        } else if fits(account.amount, pending, order.amount) {
            match replaces {
                Some(replaced) if !pass_key_on(&mut connection, replaced, order).await? => Created::Taken,
                _ if Statement::committing(LockMode::Skip, |packet| insert(packet, order, lock))
                    .execute_unless_taken(&mut connection)
                    .await? =>
                {
                    Created::Stored
                }
                _ => Created::Taken,
            }
        } else {
            Created::TooMuch
        };
        if created != Created::Stored {
            Statement::rolling_back().execute(&mut connection).await?;
        }
        connection.give_back();
        Ok(created)
    }

    async fn order_of_key(&self, user: &UserId, key: &IdempotencyKey) -> Result<Option<Order>, StoreError> {
        let mut query = select();
        query.push(" WHERE user_id = ").push_bind(user.as_str());
        query.push(" AND idempotency_key = ").push_bind(key.as_str().as_bytes());
        let rows = self.reader.fetch_all(query.build()).await?;
        rows.first().map(order_of).transpose()
    }

    async fn order(&self, id: &OrderId) -> Result<Option<Order>, StoreError> {
        let mut query = select();
        query.push(" WHERE order_id = ").push_bind(id.as_str());
        let rows = self.reader.fetch_all(query.build()).await?;
        rows.first().map(order_of).transpose()
    }

    async fn order_of_payment(&self, payment: &PaymentId) -> Result<Option<Order>, StoreError> {
        let mut query = select();
        query.push(" WHERE payment_order_id = ").push_bind(payment.as_str());
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
        // The first condition limits the range of the key; the second one is exact.
        query.push(" AND created_at <= ").push_bind(after.naive_utc());
        query.push(" AND (created_at < ").push_bind(after.naive_utc());
        query.push(" OR order_id < ").push_bind(after_id);
        query.push(") ORDER BY created_at DESC, order_id DESC LIMIT ").push_bind(limit);
        query.push(" OFFSET ").push_bind(offset);
        self.viewer.fetch_all(query.build()).await?.iter().map(order_of).collect()
    }

    async fn count_orders(&self, filter: &OrderFilter) -> Result<u64, StoreError> {
        let mut query = QueryBuilder::new("SELECT COUNT(*) FROM recharge_order");
        restrict(&mut query, filter);
        let rows = self.viewer.fetch_all(query.build()).await?;
        rows.first().map_or(Ok(0), |row| row.number(0))
    }

    async fn scan_orders(&self, scan: &OrderScan, after: Option<&Order>, limit: u32) -> Result<Vec<Order>, StoreError> {
        let (from, after_id) = after.map_or((scan.from, ""), |last| (last.created_at, last.id.as_str()));
        let mut query = select();
        query.push(" WHERE status = ").push_bind(scan.status.name());
        query.push(" AND created_at <= ").push_bind(scan.until.naive_utc());
        query.push(" AND created_at >= ").push_bind(from.naive_utc());
        query.push(" AND (created_at > ").push_bind(from.naive_utc());
        query.push(" OR order_id > ").push_bind(after_id);
        query.push(") ORDER BY created_at, order_id LIMIT ").push_bind(limit);
        self.reader.fetch_all(query.build()).await?.iter().map(order_of).collect()
    }

    async fn order_refund(&self, id: &RefundId) -> Result<Option<OrderRefund>, StoreError> {
        let mut query = QueryBuilder::new("SELECT ");
        query.push(REFUND_COLUMNS).push(" FROM recharge_refund WHERE refund_id = ");
        query.push_bind(id.as_str().as_bytes());
        let rows = self.reader.fetch_all(query.build()).await?;
        rows.first().map(order_refund_of).transpose()
    }

    async fn scan_refunds(
        &self,
        scan: &RefundScan,
        after: Option<&OrderRefund>,
        limit: u32,
    ) -> Result<Vec<OrderRefund>, StoreError> {
        let (from, after_id) = after.map_or((scan.from, ""), |last| (last.updated_at, last.id.as_str()));
        let mut query = QueryBuilder::new("SELECT ");
        query.push(REFUND_COLUMNS).push(" FROM recharge_refund WHERE status = ");
        query.push_bind(scan.status.name());
        query.push(" AND updated_at <= ").push_bind(scan.until.naive_utc());
        query.push(" AND updated_at >= ").push_bind(from.naive_utc());
        query.push(" AND (updated_at > ").push_bind(from.naive_utc());
        query.push(" OR refund_id > ").push_bind(after_id.as_bytes());
        query.push(") ORDER BY updated_at, refund_id LIMIT ").push_bind(limit);
        self.reader.fetch_all(query.build()).await?.iter().map(order_refund_of).collect()
    }
}

#[async_trait]
impl SettlementStore for MySqlStore {
    async fn credited_orders(
        &self,
        (from, before): (DateTime<Utc>, DateTime<Utc>),
        after: Option<&OrderId>,
        limit: u32,
    ) -> Result<Vec<Order>, StoreError> {
        let mut query = select();
        query.push(" WHERE order_id > ").push_bind(after.map_or("", OrderId::as_str));
        query.push(" AND status IN ('success', 'refunded') AND COALESCE(credited_at, updated_at) >= ");
        query.push_bind(from.naive_utc()).push(" AND COALESCE(credited_at, updated_at) < ");
        query.push_bind(before.naive_utc()).push(" ORDER BY order_id LIMIT ").push_bind(limit);
        self.viewer.fetch_all(query.build()).await?.iter().map(order_of).collect()
    }

    async fn debited_refunds(
        &self,
        (from, before): (DateTime<Utc>, DateTime<Utc>),
        after: Option<&RefundId>,
        limit: u32,
    ) -> Result<Vec<OrderRefund>, StoreError> {
        let mut query = QueryBuilder::new("SELECT ");
        query.push(REFUND_COLUMNS).push(" FROM recharge_refund WHERE refund_id > ");
        query.push_bind(after.map_or("", RefundId::as_str).as_bytes());
        query.push(" AND settled_at >= ").push_bind(from.naive_utc());
        query.push(" AND settled_at < ").push_bind(before.naive_utc());
        query.push(" ORDER BY refund_id LIMIT ").push_bind(limit);
        self.viewer.fetch_all(query.build()).await?.iter().map(order_refund_of).collect()
    }
}

impl MySqlStore {
    /// Begins a transaction and locks the account of a new order. Every change of the balance and
    /// every other new order of the user take the same lock. Returns the account, and the sum of
    /// the pending orders.
    async fn lock_account(&self, order: &Order, lock: Uuid) -> Result<(Lease, Balance, Money), StoreError> {
        let first = self.writer.take_with(|connection| {
            let mut statement = Statement::beginning(LockMode::Skip);
            accounts::lock_or_insert(&mut statement, &order.user, lock, order.created_at);
            statement
                .push("SELECT balance, held, version, status, plan FROM user_balance WHERE user_id = ")
                .texts([order.user.as_str()]);
            statement.push("; SELECT SUM(amount) FROM recharge_order WHERE status = 'pending' AND user_id = ");
            statement.texts([order.user.as_str()]);
            statement.fetch(connection).boxed()
        });
        let (connection, sets) = first.await?;
        let row = |from_end: usize| {
            let row = sets.iter().nth_back(from_end).and_then(|rows| rows.first());
            row.ok_or_else(|| corrupt("account of a new order"))
        };
        Ok((connection, balance_of(row(1)?, 0)?, row(0)?.money(0)?))
    }
}

/// Takes the key from a failed order without a page; `false` if there is no such order any more.
async fn pass_key_on(connection: &mut impl OnNode, replaced: &OrderId, order: &Order) -> Result<bool, StoreError> {
    let mut update = Statement::new("UPDATE recharge_order SET idempotency_key = NULL WHERE order_id = ");
    update.texts([replaced.as_str()]).push(" AND status = 'failed' AND payment_url IS NULL AND idempotency_key = ");
    update.optional_text(order.idempotency_key.as_ref().map(IdempotencyKey::as_str));
    update.execute_counting(connection).await.map(|rows| rows == 1)
}

fn insert(insert: &mut Statement, order: &Order, lock: Uuid) {
    insert.push("INSERT INTO recharge_order (").push(COLUMNS).push(") VALUES ").rows([order], |row, order| {
        row.text(order.id.as_str())
            .text(order.user.as_str())
            .money(order.amount)
            .optional(order.method.map(PaymentMethod::name), StatementRow::text)
            .text(order.status.name())
            .optional(order.payment.as_ref().map(PaymentId::as_str), StatementRow::text)
            .optional(order.payment_url.as_deref(), StatementRow::text)
            .instant(order.created_at)
            .instant(order.updated_at)
            .optional(order.idempotency_key.as_ref().map(IdempotencyKey::as_str), StatementRow::text)
            .money(order.refunded)
            .money(order.refunding)
            .optional(order.credited_at, StatementRow::instant);
    });
    insert.push("; ");
    accounts::delete_if_inserted(insert, &order.user, lock);
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

/// Locks the orders and the unapplied payments of the batch, and finds its refunds, and the payments
/// that orders already have. The accounts are locked before, so no two batches lock these rows in
/// different sequences. An empty list has no statement.
pub(super) fn lock(statement: &mut Statement, keys: &Keys<'_>, mode: LockMode) {
    if !keys.orders.is_empty() {
        statement
            .push("SELECT ")
            .push(COLUMNS)
            .push(" FROM recharge_order WHERE order_id IN (")
            .texts(keys.orders.iter().map(|order| order.as_str()))
            .push(") ORDER BY order_id")
            .push(mode.suffix());
    }
    if !keys.unapplied.is_empty() {
        unapplied::lock(statement, &keys.unapplied, mode);
    }
    if !keys.payments.is_empty() {
        statement
            .push("SELECT payment_order_id, order_id, status FROM recharge_order WHERE payment_order_id IN (")
            .texts(keys.payments.iter().map(|payment| payment.as_str()))
            .push("); ");
    }
    if !keys.order_refunds.is_empty() {
        statement
            .push("SELECT ")
            .push(REFUND_COLUMNS)
            .push(" FROM recharge_refund WHERE refund_id IN (")
            .texts(keys.order_refunds.iter().map(|refund| refund.as_str()))
            .push("); ");
    }
}

/// Reads the results of [`lock`], one by one, from `next`.
pub(super) fn add_locked(
    (state, left_out): (&mut State, &mut LeftOut),
    batch: &Batch,
    keys: &Keys<'_>,
    next: &mut impl FnMut() -> Result<Vec<MySqlRow>, StoreError>,
) -> Result<(), StoreError> {
    if !keys.orders.is_empty() {
        for row in &next()? {
            let user = UserId::from_stored(row.text(1)?);
            if let Some(order) = left_out.decoded(&user, "recharge_order", order_of(row))? {
                state.orders.insert(order.id.clone(), order);
            }
        }
    }
    if !keys.unapplied.is_empty() {
        unapplied::add_locked((&mut *state, &mut *left_out), batch, &next()?)?;
    }
    if !keys.payments.is_empty() {
        for row in &next()? {
            let payment = PaymentId::from_stored(row.text(0)?);
            if row.text(2)?.parse::<OrderStatus>().is_ok_and(OrderStatus::is_credited) {
                state.credited_payments.insert(payment.clone());
            }
            state.payments.insert(payment, OrderId::from_stored(row.text(1)?));
        }
    }
    if !keys.order_refunds.is_empty() {
        for row in &next()? {
            let user = UserId::from_stored(row.text(2)?);
            if let Some(refund) = left_out.decoded(&user, "recharge_refund", order_refund_of(row))? {
                state.order_refunds.insert(refund.id.clone(), refund);
            }
        }
    }
    Ok(())
}

/// Leaves out the accounts whose postings need a row that exists and was not locked.
pub(super) fn leave_out_locked(left_out: &mut LeftOut, batch: &Batch, needs: impl Fn(&Posting) -> bool) {
    for posting in batch.postings.iter().filter(|posting| needs(posting)) {
        let user = posting.user();
        left_out.insert(user, Obstacle::Locked(Lock::Account(user.clone())));
    }
}

/// Finds the existing ones of some orders by a plain read, which ignores locks.
pub(super) fn read_present(statement: &mut Statement, orders: &[&OrderId]) {
    statement
        .push("SELECT order_id FROM recharge_order WHERE order_id IN (")
        .texts(orders.iter().map(|order| order.as_str()))
        .push("); ");
}

/// Plain updates. An upsert would change the order that already has the payment, instead of
/// failing.
pub(super) fn update(statement: &mut Statement, orders: &[Order]) {
    for order in orders {
        statement
            .push("UPDATE recharge_order SET status = ")
            .texts([order.status.name()])
            .push(", payment_order_id = ");
        statement.optional_text(order.payment.as_ref().map(PaymentId::as_str)).push(", payment_url = ");
        statement.optional_text(order.payment_url.as_deref()).push(", refunded_amount = ").money(order.refunded);
        statement.push(", refunding_amount = ").money(order.refunding).push(", credited_at = ");
        statement.row(|row| {
            row.optional(order.credited_at, StatementRow::instant);
        });
        statement.push(", updated_at = ").instant(order.updated_at);
        statement.push(" WHERE order_id = ").texts([order.id.as_str()]).push("; ");
    }
}

/// A plain insert, so that an id in use fails.
pub(super) fn insert_refunds(statement: &mut Statement, refunds: &[OrderRefund]) {
    statement
        .push("INSERT INTO recharge_refund (")
        .push(REFUND_COLUMNS)
        .push(") VALUES ")
        .rows(refunds, |row, refund| {
            row.text(refund.id.as_str())
                .text(refund.order.as_str())
                .text(refund.user.as_str())
                .text(refund.kind.name())
                .text(refund.status.name())
                .money(refund.amount)
                .optional(refund.asked, StatementRow::money)
                .number(u8::from(refund.is_forced))
                .text(&refund.reason)
                .text(&refund.request.to_string())
                .money(refund.balance_after)
                .instant(refund.created_at)
                .instant(refund.updated_at)
                .optional(refund.settled_at, StatementRow::instant);
        })
        .push("; ");
}

pub(super) fn update_refunds(statement: &mut Statement, refunds: &[OrderRefund]) {
    for refund in refunds {
        statement.push("UPDATE recharge_refund SET status = ").texts([refund.status.name()]);
        statement.push(", balance_after = ").money(refund.balance_after).push(", updated_at = ");
        statement.instant(refund.updated_at).push(", settled_at = ").row(|row| {
            row.optional(refund.settled_at, StatementRow::instant);
        });
        statement.push(" WHERE refund_id = ").texts([refund.id.as_str()]).push("; ");
    }
}
