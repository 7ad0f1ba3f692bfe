//! The store of top-up orders.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::biz::{
    settlement::{
        order::{Order, OrderStatus},
        order_refund::{OrderRefund, RefundStatus},
    },
    values::{
        account_status::AccountStatus,
        error::StoreError,
        ids::{IdempotencyKey, OrderId, PaymentId, RefundId, UserId},
        money::Money,
        paging::PageStart,
    },
};

/// The orders to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderFilter {
    pub user: UserId,
    pub status: Option<OrderStatus>,
}

/// A scan of the orders of all users, by status and creation time. Both ends are included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrderScan {
    pub status: OrderStatus,
    pub from: DateTime<Utc>,
    pub until: DateTime<Utc>,
}

/// A scan of the refunds of all orders, by status and last change. Both ends are included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefundScan {
    pub status: RefundStatus,
    pub from: DateTime<Utc>,
    pub until: DateTime<Utc>,
}

/// The outcome of [`OrderStore::create_order`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    Stored,
    /// The id or the key belongs to another order, or the order to replace has changed.
    Taken,
    /// The balance could exceed [`Money::MAX`].
    TooMuch,
    /// The account takes no top-ups.
    NotActive(AccountStatus),
}

/// Whether the balance stays within [`Money::MAX`] once all pending orders are paid. Held amounts
/// count too, because a hold may be released.
pub fn fits(balance: Money, pending: Money, amount: Money) -> bool {
    balance.plus(pending).plus(amount) <= Money::MAX
}

/// Creates and reads orders. Only settlement changes them.
#[async_trait]
pub trait OrderStore: Send + Sync + 'static {
    /// Stores a new order if the account is active, and [`fits`] allows it for the balance and the
    /// pending orders of the user.
    /// Concurrent orders of a user are checked one by one. With `replaces`, a failed order without
    /// a page, the idempotency key moves from that order to the new one.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: the outcome is unknown. [`StoreError::Conflict`]: the order is
    /// not stored. [`StoreError::Failed`].
    async fn create_order(&self, order: &Order, replaces: Option<&OrderId>) -> Result<Created, StoreError>;

    /// The order of a user that was created with a key.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn order_of_key(&self, user: &UserId, key: &IdempotencyKey) -> Result<Option<Order>, StoreError>;

    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn order(&self, id: &OrderId) -> Result<Option<Order>, StoreError>;

    /// The order that has a payment.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn order_of_payment(&self, payment: &PaymentId) -> Result<Option<Order>, StoreError>;

    /// At most `limit` orders, newest first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn orders(&self, filter: &OrderFilter, start: &PageStart, limit: u32) -> Result<Vec<Order>, StoreError>;

    /// The number of orders that match.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn count_orders(&self, filter: &OrderFilter) -> Result<u64, StoreError>;

    /// At most `limit` orders of a status that were created between two instants, both included.
    /// They begin after `after`, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn scan_orders(&self, scan: &OrderScan, after: Option<&Order>, limit: u32) -> Result<Vec<Order>, StoreError>;

    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn order_refund(&self, id: &RefundId) -> Result<Option<OrderRefund>, StoreError>;

    /// At most `limit` refunds of a status that were last changed between two instants, both included. They
    /// begin after `after`, the longest unchanged first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn scan_refunds(
        &self,
        scan: &RefundScan,
        after: Option<&OrderRefund>,
        limit: u32,
    ) -> Result<Vec<OrderRefund>, StoreError>;
}
