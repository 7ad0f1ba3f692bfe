//! What top-ups need of payment-service.

use std::net::IpAddr;

use async_trait::async_trait;
use thiserror::Error;

use crate::biz::{
    settlement::order::PaymentMethod,
    values::{
        ids::{OrderId, PaymentId, UserId},
        money::Money,
    },
};

/// A payment to be opened.
#[derive(Debug, Clone)]
pub struct NewPayment {
    pub order: OrderId,
    pub user: UserId,
    /// In whole hundredths of `currency`.
    pub amount: Money,
    pub currency: String,
    pub method: PaymentMethod,
    /// Of the user, where known.
    pub client_ip: Option<IpAddr>,
}

/// A payment that waits for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedPayment {
    pub id: PaymentId,
    /// Where the user pays.
    pub url: String,
}

/// What payment-service knows of the payment of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    pub id: PaymentId,
    pub amount: Money,
    pub currency: String,
    pub state: PaymentState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PaymentState {
    /// Not decided yet.
    Pending,
    Paid,
    /// Failed or given up.
    Failed,
}

/// The place of a request in a distributed trace: the headers of W3C Trace Context, passed
/// on as they came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TraceContext {
    pub parent: Option<String>,
    pub state: Option<String>,
}

/// Why payment-service did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PaymentError {
    /// It answered that it will not.
    #[error("refused: {0}")]
    Refused(String),
    /// No answer. What was asked may have been done.
    #[error("no answer: {0}")]
    Unavailable(String),
    /// An answer that makes no sense. What was asked may have been done.
    #[error("a senseless answer: {0}")]
    Senseless(String),
}

/// payment-service.
#[async_trait]
pub trait PaymentGateway: Send + Sync + 'static {
    /// Opens a payment. Not to be repeated: two calls may open two.
    ///
    /// # Errors
    /// [`PaymentError`], each of them.
    async fn open(&self, payment: &NewPayment, trace: &TraceContext) -> Result<OpenedPayment, PaymentError>;

    /// The payment of an order; `None` where it knows none.
    ///
    /// # Errors
    /// [`PaymentError`], each of them.
    async fn payment_of(&self, order: &OrderId, trace: &TraceContext) -> Result<Option<Payment>, PaymentError>;
}
