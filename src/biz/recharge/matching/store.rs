//! The store of the entries that are compared with a settlement file.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::biz::{
    recharge::RechargeStore,
    settlement::{order::Order, order_refund::OrderRefund},
    values::{
        error::StoreError,
        ids::{OrderId, RefundId},
    },
};

/// Reads the credited orders and the refunds of a span of time.
#[async_trait]
pub trait SettlementStore: RechargeStore {
    /// At most `limit` orders that were credited from the first instant to before the second one, in
    /// the order of their ids, after `after`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn credited_orders(
        &self,
        between: (DateTime<Utc>, DateTime<Utc>),
        after: Option<&OrderId>,
        limit: u32,
    ) -> Result<Vec<Order>, StoreError>;

    /// As [`Self::credited_orders`], the refunds and chargebacks that were debited.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn debited_refunds(
        &self,
        between: (DateTime<Utc>, DateTime<Utc>),
        after: Option<&RefundId>,
        limit: u32,
    ) -> Result<Vec<OrderRefund>, StoreError>;
}
