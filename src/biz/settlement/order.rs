//! A top-up order: its states, which only settlement changes, and its way of payment.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};

use crate::biz::values::{
    error::Error,
    ids::{OrderId, PaymentId, UserId},
    invalid::Invalid,
    money::Money,
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
