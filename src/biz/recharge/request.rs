//! A request for a top-up, and the top-up that it started.

use std::net::IpAddr;

use crate::biz::{
    settlement::order::{Order, PaymentMethod},
    values::{
        error::Result,
        ids::{IdempotencyKey, UserId},
        money::Money,
    },
};

/// A user's request for a top-up.
#[derive(Debug, Clone)]
pub struct NewRecharge {
    pub user: UserId,
    pub amount: Money,
    pub method: PaymentMethod,
    /// `None` means the currency of the account.
    pub currency: Option<String>,
    /// The address of the user, if known.
    pub client_ip: Option<IpAddr>,
    /// The address to which the user returns; the id of the order follows it. `None` means the configured one.
    pub return_to: Option<String>,
    /// The key by which a repeat finds the first order.
    pub idempotency_key: Option<IdempotencyKey>,
}

/// A top-up that has an order.
#[derive(Debug)]
pub struct Started {
    pub order: Order,
    /// The page on which the user pays; an error if the order failed.
    pub page: Result<String>,
    /// Whether this request created the order.
    pub is_new: bool,
}
