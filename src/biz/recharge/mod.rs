//! Top-ups: an order is created and its payment opened at payment-service. Later a callback
//! reports the payment, or a job looks it up. The money is credited once, even if reports repeat, come
//! late, or change their order. A credited top-up can be given back, whole or in part. A payment that
//! can't be credited is kept for an operator.
//!
//! The states of an order are in [`crate::biz::settlement::order::OrderStatus`], and the transitions
//! in `settlement::rule`. Like every change of a balance, a top-up passes through the lane of its
//! user.

pub mod callback;
pub mod gateway;
mod keep;
pub mod matching;
pub mod order;
mod questions;
pub mod reconcile;
pub mod refund;
mod repeat;
pub mod request;
pub mod resolve;
pub mod returned;
pub mod start;
pub mod unapplied;

use std::{sync::Arc, time::Duration};

use self::{
    gateway::{PaymentError, PaymentGateway},
    order::OrderStore,
    questions::Questions,
    unapplied::UnappliedStore,
};
use super::{
    settlement::engine::Engine,
    values::{
        calendar::Calendar,
        currency::Currency,
        error::{Error, Result, StoreError},
        money::Money,
    },
};

/// Deadline of a call to the database outside the lanes, for example over a connection that went
/// silent.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);

/// The orders, their refunds, and the unapplied payments.
pub trait RechargeStore: OrderStore + UnappliedStore {}

impl<S: OrderStore + UnappliedStore + ?Sized> RechargeStore for S {}

/// Starts top-ups, settles them, and gives them back.
pub struct Recharges {
    orders: Arc<dyn RechargeStore>,
    engine: Arc<Engine>,
    calendar: Arc<Calendar>,
    /// `None` if payment-service is not configured.
    gateway: Option<Arc<dyn PaymentGateway>>,
    terms: Terms,
    questions: Questions,
}

/// The limits of a top-up.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The currency of every account.
    pub currency: Currency,
    /// In whole minor units of the currency.
    pub max_amount: Money,
    /// Time limit of one call to payment-service.
    pub payment_timeout: Duration,
    /// Most top-ups of a user that wait for their payment.
    pub max_open: u64,
}

impl Recharges {
    pub fn new(
        orders: Arc<dyn RechargeStore>,
        engine: Arc<Engine>,
        calendar: Arc<Calendar>,
        gateway: Option<Arc<dyn PaymentGateway>>,
        terms: Terms,
    ) -> Self {
        Self { orders, engine, calendar, gateway, terms, questions: Questions::default() }
    }

    fn gateway(&self) -> Result<&dyn PaymentGateway> {
        let gateway = self.gateway.as_deref();
        gateway.ok_or_else(|| Error::PaymentUnavailable("payment_service is not configured".into()))
    }

    /// All accounts have one currency. A payment in another currency has another value.
    fn check_currency(&self, currency: &str) -> Result<()> {
        if currency.eq_ignore_ascii_case(self.terms.currency.code()) {
            return Ok(());
        }
        Err(Error::AmountMismatch(format!("currency: the order is in {}", self.terms.currency)))
    }
}

impl From<PaymentError> for Error {
    /// The text of payment-service goes to the log and not to the user.
    fn from(error: PaymentError) -> Self {
        let why = match error {
            PaymentError::Refused(_) => "payment-service refused",
            PaymentError::Unavailable(_) | PaymentError::Malformed(_) => {
                "payment-service does not answer; try again later"
            }
        };
        Error::PaymentUnavailable(why.into())
    }
}

/// The reason that an order or a refund was not settled.
enum NotSettled {
    Unanswered(PaymentError),
    Refused(Error),
}

impl From<PaymentError> for NotSettled {
    fn from(error: PaymentError) -> Self {
        Self::Unanswered(error)
    }
}

impl From<Error> for NotSettled {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

/// The result of `call`, or an outage after [`STORE_TIMEOUT`].
async fn in_time<T>(
    call: impl Future<Output = std::result::Result<T, StoreError>>,
) -> std::result::Result<T, StoreError> {
    let late = || Err(StoreError::Unavailable("no answer in time".into()));
    tokio::time::timeout(STORE_TIMEOUT, call).await.unwrap_or_else(|_| late())
}
