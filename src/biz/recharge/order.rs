//! Where top-up orders are made and read.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::biz::{
    settlement::order::{Order, OrderStatus},
    values::{
        error::StoreError,
        ids::{OrderId, UserId},
        paging::PageStart,
    },
};

/// Which orders to list.
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

/// Where orders are made and read. They are changed only by settlement.
#[async_trait]
pub trait OrderStore: Send + Sync + 'static {
    /// Keeps a new order; `false` when its id is taken.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: it may be kept or not. [`StoreError::Conflict`]: it is
    /// not kept. [`StoreError::Failed`].
    async fn create_order(&self, order: &Order) -> Result<bool, StoreError>;

    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn order(&self, id: &OrderId) -> Result<Option<Order>, StoreError>;

    /// At most `limit` orders, newest first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn orders(&self, filter: &OrderFilter, start: &PageStart, limit: u32) -> Result<Vec<Order>, StoreError>;

    /// How many orders match.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn count_orders(&self, filter: &OrderFilter) -> Result<u64, StoreError>;

    /// Orders in a status that were made between two instants, both included, the oldest
    /// first, from behind `after` on, `limit` at most.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn orders_made(&self, made: &Made, after: Option<&Order>, limit: u32) -> Result<Vec<Order>, StoreError>;
}
