//! The store of top-up orders.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::biz::{
    settlement::order::{Order, OrderStatus},
    values::{
        error::StoreError,
        ids::{IdempotencyKey, OrderId, UserId},
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

/// Orders of all users, by status and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    pub status: OrderStatus,
    pub from: DateTime<Utc>,
    pub until: DateTime<Utc>,
}

/// What became of a new order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    Kept,
    /// Its id or its key belongs to another order, or the one to be replaced is not what it was.
    Taken,
    /// The balance could not hold it.
    TooMuch,
}

/// Whether a balance can hold `amount` once all pending orders are paid. What is held of the
/// balance is part of it: it may be released.
pub fn fits(balance: Money, pending: Money, amount: Money) -> bool {
    balance.plus(pending).plus(amount) <= Money::MAX
}

/// Where orders are made and read. They are changed only by settlement.
#[async_trait]
pub trait OrderStore: Send + Sync + 'static {
    /// Keeps a new order, if [`fits`] says so of its user's balance and pending orders; no two
    /// orders at once pass that are too much together. With `replaces`, a failed order that has
    /// no page, the key passes from that one to the new one.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: it may be kept or not. [`StoreError::Conflict`]: it is
    /// not kept. [`StoreError::Failed`].
    async fn create_order(&self, order: &Order, replaces: Option<&OrderId>) -> Result<Created, StoreError>;

    /// The order of a user that was made with a key.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn order_of_key(&self, user: &UserId, key: &IdempotencyKey) -> Result<Option<Order>, StoreError>;

    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn order(&self, id: &OrderId) -> Result<Option<Order>, StoreError>;

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
    async fn orders_made(&self, made: &Made, after: Option<&Order>, limit: u32) -> Result<Vec<Order>, StoreError>;
}
