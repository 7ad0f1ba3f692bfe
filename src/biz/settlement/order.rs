//! A top-up order: its states, which only settlement changes, and its payment method.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};

use crate::biz::values::{
    error::Error,
    ids::{IdempotencyKey, OrderId, PaymentId, UserId},
    invalid::Invalid,
    money::Money,
};

/// A user's order to top up the account by an amount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    pub id: OrderId,
    pub user: UserId,
    pub amount: Money,
    /// `None` on orders of the legacy service.
    pub method: Option<PaymentMethod>,
    pub status: OrderStatus,
    /// The payment at payment-service, once it is known. No two orders share a payment.
    pub payment: Option<PaymentId>,
    /// The page on which the user pays.
    pub payment_url: Option<String>,
    /// The key of the request that made the order, if it had one; unique per user.
    pub idempotency_key: Option<IdempotencyKey>,
    /// The sum of its refunds and chargebacks.
    pub refunded: Money,
    /// The sum of its pending refunds.
    pub refunding: Money,
    /// The time of the credit. `None` before it, and on an order that was credited by an older release
    /// and never refunded, whose last change is the credit.
    pub credited_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl Order {
    /// The amount that no refund has taken or is about to take.
    pub fn unrefunded(&self) -> Money {
        self.amount.minus(self.refunded).minus(self.refunding)
    }

    /// The error for a payment with another amount.
    pub fn amount_mismatch(&self) -> Error {
        Error::AmountMismatch(format!("amount: must be {}, the amount of the order", self.amount))
    }
}

/// The states of an order. SUCCESS means that the balance is credited; only REFUNDED follows. Every
/// other state still changes to SUCCESS if the order is paid after all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OrderStatus {
    Pending,
    Success,
    Failed,
    /// Not paid in time, according to payment-service.
    Expired,
    /// All of it went back.
    Refunded,
}

impl OrderStatus {
    pub const ALL: [Self; 5] = [Self::Pending, Self::Success, Self::Failed, Self::Expired, Self::Refunded];

    /// Whether the order was credited to the balance.
    pub fn is_credited(self) -> bool {
        match self {
            Self::Success | Self::Refunded => true,
            Self::Pending | Self::Failed | Self::Expired => false,
        }
    }

    /// The name in the tables and on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Refunded => "refunded",
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
            .ok_or_else(|| Invalid::new("status", "must be pending, success, failed, expired or refunded"))
    }
}

/// The payment method of a top-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PaymentMethod {
    Alipay,
    Wechatpay,
    Stripe,
}

impl PaymentMethod {
    /// The name in the tables and on the wire.
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
