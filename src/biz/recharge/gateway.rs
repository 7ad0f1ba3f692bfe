//! The interface to payment-service.

use std::net::IpAddr;

use async_trait::async_trait;
use thiserror::Error;

use crate::biz::{
    settlement::order::PaymentMethod,
    values::{
        currency::Currency,
        ids::{OrderId, PaymentId, RefundId, UserId},
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
    /// The address to which the user returns; `None` means the configured one.
    pub return_url: Option<String>,
}

/// A payment that waits for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedPayment {
    pub id: PaymentId,
    /// The page on which the user pays.
    pub url: String,
}

/// A payment at payment-service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    pub id: PaymentId,
    pub order: OrderId,
    /// In minor units of `currency`.
    pub minor_amount: i64,
    pub currency: String,
    pub state: PaymentState,
}

impl Payment {
    /// The currency and the amount; `None` if the one is not known or the other has no place in it.
    pub fn money(&self) -> Option<(Currency, Money)> {
        money_of(&self.currency, self.minor_amount)
    }
}

fn money_of(currency: &str, minor_amount: i64) -> Option<(Currency, Money)> {
    let currency = Currency::parse(currency)?;
    Some((currency, currency.from_minor(minor_amount)?))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PaymentState {
    /// The user has not paid yet.
    Pending,
    Paid,
    /// Failed or cancelled.
    Failed,
}

/// A refund to make.
#[derive(Debug, Clone)]
pub struct NewRefund {
    pub id: RefundId,
    pub order: OrderId,
    /// `None` for an order of the legacy service without a payment.
    pub payment: Option<PaymentId>,
    /// In minor units of the payment's currency.
    pub minor_amount: i64,
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefundState {
    Pending,
    /// The money went back.
    Success,
    /// No money went back.
    Failed,
}

/// A refund or chargeback at payment-service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundRefund {
    pub state: RefundState,
    /// `None` if the answer does not name the order.
    pub content: Option<FoundRefundContent>,
}

/// The content of a refund at payment-service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundRefundContent {
    /// The order under which payment-service holds the payment.
    pub order: OrderId,
    /// `None` if the answer does not name it.
    pub payment: Option<PaymentId>,
    /// In minor units of the currency.
    pub minor_amount: i64,
    pub currency: String,
}

impl FoundRefundContent {
    /// As [`Payment::money`].
    pub fn money(&self) -> Option<(Currency, Money)> {
        money_of(&self.currency, self.minor_amount)
    }
}

/// The headers of a request that go on to payment-service unchanged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallerContext {
    /// W3C Trace Context.
    pub parent: Option<String>,
    pub state: Option<String>,
    /// Names and values of the headers, or gRPC metadata, that the configuration forwards.
    pub forwarded: Vec<(String, String)>,
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
    async fn open(&self, payment: &NewPayment, trace: &CallerContext) -> Result<OpenedPayment, PaymentError>;

    /// The payment of an order; `None` if payment-service has none.
    ///
    /// # Errors
    /// Every [`PaymentError`].
    async fn payment_of(&self, order: &OrderId, trace: &CallerContext) -> Result<Option<Payment>, PaymentError>;

    /// The payment with an id; `None` if payment-service has none.
    ///
    /// # Errors
    /// Every [`PaymentError`].
    async fn payment(&self, id: &PaymentId, trace: &CallerContext) -> Result<Option<Payment>, PaymentError>;

    /// Gives a payment back, whole or in part. The refund of an id is made once, however often it is
    /// requested. [`PaymentError::Refused`] means that this call has made no refund; an earlier one may
    /// have.
    ///
    /// # Errors
    /// Every [`PaymentError`].
    async fn refund(&self, refund: &NewRefund, trace: &CallerContext) -> Result<RefundState, PaymentError>;

    /// The refund of an id; `None` if payment-service has none.
    ///
    /// # Errors
    /// Every [`PaymentError`].
    async fn refund_of(&self, id: &RefundId, trace: &CallerContext) -> Result<Option<FoundRefund>, PaymentError>;
}
