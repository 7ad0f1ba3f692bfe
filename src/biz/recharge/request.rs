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
    /// By which a repeat finds the first order.
    pub idempotency_key: Option<IdempotencyKey>,
}

/// A top-up that has an order.
#[derive(Debug)]
pub struct Started {
    pub order: Order,
    /// Where the user pays; the order is failed where there is no such page.
    pub page: Result<String>,
    /// Whether this request made the order.
    pub is_new: bool,
}
