//! A top-up order, and where orders are kept.

use std::{fmt, str::FromStr};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::biz::values::{
    error::{Error, Invalid, StoreError},
    ids::{IdempotencyKey, OrderId, PaymentId, UserId},
    money::Money,
    paging::PageStart,
};

/// A user's wish to pay an amount into the account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    pub id: OrderId,
    pub user: UserId,
    pub amount: Money,
    /// `None` on orders of the legacy service.
    pub method: Option<PaymentMethod>,
    pub status: OrderStatus,
    /// Once payment-service has given it; no two orders have the same.
    pub payment: Option<PaymentId>,
    /// Where the user pays.
    pub payment_url: Option<String>,
    /// Of the request that made it, where it had one; no two orders of a user have the same.
    pub idempotency_key: Option<IdempotencyKey>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl Order {
    /// The refusal of a payment of another amount.
    pub fn amount_mismatch(&self) -> Error {
        Error::AmountMismatch(format!("amount: the order is over {}", self.amount))
    }
}

/// The states of an order. SUCCESS is final: the balance has the money. From the others
/// it is still reached when the money comes in after all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OrderStatus {
    Pending,
    Success,
    Failed,
    /// Nobody paid in time, says payment-service.
    Expired,
}

impl OrderStatus {
    const ALL: [Self; 4] = [Self::Pending, Self::Success, Self::Failed, Self::Expired];

    /// As in the tables and on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Expired => "expired",
        }
    }
}

impl fmt::Display for OrderStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for OrderStatus {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::ALL
            .into_iter()
            .find(|status| status.name() == text)
            .ok_or_else(|| Invalid::new("status", "must be pending, success, failed or expired"))
    }
}

/// How a user pays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PaymentMethod {
    Alipay,
    Wechatpay,
    Stripe,
}

impl PaymentMethod {
    /// As in the tables and on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Alipay => "alipay",
            Self::Wechatpay => "wechatpay",
            Self::Stripe => "stripe",
        }
    }
}

impl FromStr for PaymentMethod {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "alipay" => Ok(Self::Alipay),
            "wechat" | "wechatpay" => Ok(Self::Wechatpay),
            "stripe" => Ok(Self::Stripe),
            _ => Err(Invalid::new("payment_method", "must be alipay, wechat, wechatpay or stripe")),
        }
    }
}

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
