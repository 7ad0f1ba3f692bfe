//! The interface to payment-service.

use std::net::IpAddr;

use async_trait::async_trait;
use thiserror::Error;

use crate::biz::{
    settlement::order::PaymentMethod,
    values::{
        currency::Currency,
        ids::{OrderId, PaymentId, UserId},
        money::Money,
    },
};

/// A payment to open.
#[derive(Debug, Clone)]
pub struct NewPayment {
    pub order: OrderId,
    pub user: UserId,
    /// In whole minor units of `currency`.
    pub amount: Money,
    pub currency: Currency,
    pub method: PaymentMethod,
    /// The address of the user, if known.
    pub client_ip: Option<IpAddr>,
}

/// A payment that waits for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedPayment {
    pub id: PaymentId,
    /// The page on which the user pays.
    pub url: String,
}

/// The payment of an order at payment-service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    pub id: PaymentId,
    /// In minor units of `currency`.
    pub minor_amount: i64,
    pub currency: String,
    pub state: PaymentState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PaymentState {
    /// The user has not paid yet.
    Pending,
    Paid,
    /// Failed or cancelled.
    Failed,
}

/// The W3C Trace Context headers of a request, passed on unchanged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TraceContext {
    pub parent: Option<String>,
    pub state: Option<String>,
}

/// A failed call of payment-service.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PaymentError {
    /// payment-service refused the call.
    #[error("refused: {0}")]
    Refused(String),
    /// No answer. The outcome is unknown.
    #[error("no answer: {0}")]
    Unavailable(String),
    /// A malformed answer. The outcome is unknown.
    #[error("malformed answer: {0}")]
    Malformed(String),
}

/// payment-service.
#[async_trait]
pub trait PaymentGateway: Send + Sync + 'static {
    /// Opens a payment. The call must not be repeated, because two calls may open two payments.
    ///
    /// # Errors
    /// Every [`PaymentError`].
    async fn open(&self, payment: &NewPayment, trace: &TraceContext) -> Result<OpenedPayment, PaymentError>;

    /// The payment of an order; `None` if payment-service has none.
    ///
    /// # Errors
    /// Every [`PaymentError`].
    async fn payment_of(&self, order: &OrderId, trace: &TraceContext) -> Result<Option<Payment>, PaymentError>;
}
