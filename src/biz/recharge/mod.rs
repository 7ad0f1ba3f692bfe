//! Top-ups: an order is made and its payment opened at payment-service; later a callback
//! says that it was paid, or a job asks. The money is credited once, whatever comes twice,
//! late, or in another order.
//!
//! The states of an order stand in [`order::OrderStatus`], what moves it from one to
//! another in `settlement::rule`: like every change of a balance, it passes through the
//! lane of its user.

pub mod callback;
pub mod gateway;
pub mod order;
pub mod reconcile;
mod repeat;
pub mod start;

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use self::{
    gateway::{PaymentError, PaymentGateway},
    order::OrderStore,
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

/// Callbacks that ask payment-service at once: whoever sends hints in masses must not make
/// us send questions in masses.
const CONFIRMATIONS: usize = 256;

/// Of a call to the database outside the lanes: one that went silent keeps nobody waiting
/// for ever.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);

/// Starts top-ups, and settles them.
pub struct Recharges {
    orders: Arc<dyn OrderStore>,
    engine: Arc<Engine>,
    calendar: Arc<Calendar>,
    /// `None` where no payment-service is configured.
    gateway: Option<Arc<dyn PaymentGateway>>,
    terms: Terms,
    confirmations: Semaphore,
}

/// What a top-up may be.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Of every account.
    pub currency: Currency,
    /// In whole minor units of the currency.
    pub max_amount: Money,
    /// Of one call to payment-service.
    pub payment_timeout: Duration,
}

impl Recharges {
    pub fn new(
        orders: Arc<dyn OrderStore>,
        engine: Arc<Engine>,
        calendar: Arc<Calendar>,
        gateway: Option<Arc<dyn PaymentGateway>>,
        terms: Terms,
    ) -> Self {
        Self { orders, engine, calendar, gateway, terms, confirmations: Semaphore::new(CONFIRMATIONS) }
    }

    fn gateway(&self) -> Result<&dyn PaymentGateway> {
        let gateway = self.gateway.as_deref();
        gateway.ok_or_else(|| Error::PaymentUnavailable("payment_service is not configured".into()))
    }

    /// Every account has one currency, and a payment in another is worth something else.
    fn check_currency(&self, currency: &str) -> Result<()> {
        if currency.eq_ignore_ascii_case(self.terms.currency.code()) {
            return Ok(());
        }
        Err(Error::AmountMismatch(format!("currency: the order is in {}", self.terms.currency)))
    }
}

impl From<PaymentError> for Error {
    /// What payment-service said is for the log, and not for the user.
    fn from(error: PaymentError) -> Self {
        let why = match error {
            PaymentError::Refused(_) => "payment-service refused",
            PaymentError::Unavailable(_) | PaymentError::Senseless(_) => {
                "payment-service does not answer; try again later"
            }
        };
        Error::PaymentUnavailable(why.into())
    }
}

/// As `call` answers, or as an outage when it takes too long.
async fn in_time<T>(
    call: impl Future<Output = std::result::Result<T, StoreError>>,
) -> std::result::Result<T, StoreError> {
    let late = || Err(StoreError::Unavailable("no answer in time".into()));
    tokio::time::timeout(STORE_TIMEOUT, call).await.unwrap_or_else(|_| late())
}
