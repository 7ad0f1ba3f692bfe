//! Starts a top-up: creates the order, and opens its payment.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use uuid::Uuid;

use super::{
    Recharges, Terms,
    gateway::{CallerContext, NewPayment, OpenedPayment},
    in_time,
    order::{Created, OrderFilter},
    repeat::First,
    request::{NewRecharge, Started},
};
use crate::biz::{
    settlement::{
        order::{Order, OrderStatus},
        posting::PaymentUpdate,
    },
    values::{
        calendar::BillingTime,
        error::{Error, Result, StoreError},
        ids::{OrderId, UserId},
        invalid::Invalid,
        limit::Limit,
        money::Money,
    },
};

/// Pauses between attempts to create an order of an account that another transaction has locked.
const LOCKED_BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(5))
    .with_max_delay(Duration::from_millis(200))
    .with_total_delay(Some(Duration::from_secs(3)))
    .without_max_times()
    .with_jitter();
/// Attempts to create an order. The second one is for a concurrent request with the same key. Order
/// ids practically never collide.
const ORDER_ATTEMPTS: u32 = 5;

impl Recharges {
    /// Creates an order and opens its payment. A repeat of a key returns the first order. The
    /// future must run to its end even if the caller goes away, so that an opened payment is stored
    /// with its order.
    ///
    /// # Errors
    /// Without an order: [`Error::AccountNotActive`], [`Error::Invalid`], [`Error::IdempotencyConflict`],
    /// [`Error::PaymentUnavailable`] if payment-service is not configured, [`Error::Overloaded`],
    /// [`Error::Internal`]. With a failed order, [`Started::page`] has the error:
    /// [`Error::PaymentUnavailable`] or, with a key, [`Error::Overloaded`].
    pub async fn start(&self, request: NewRecharge, trace: &CallerContext) -> Result<Started> {
        let mut joined = false;
        for _ in 0..ORDER_ATTEMPTS {
            // Before any check, because a repeat is answered even if the configuration has changed.
            let first = match &request.idempotency_key {
                Some(key) => self.first_of(&request, key, joined).await?,
                None => First::None,
            };
            let replaced = match first {
                First::Answer(started) => return Ok(started),
                First::Failed(order) => Some(order),
                First::None => None,
            };
            self.check(&request)?;
            self.gateway()?;
            self.check_open_orders(&request.user).await?;
            let order = self.new_order(&request);
            let replaces = replaced.as_ref().map(|order| &order.id);
            let create = || self.orders.create_order(&order, replaces);
            // Between two attempts the order occupies no connection.
            let creating = create.retry(LOCKED_BACKOFF).when(|error| matches!(error, StoreError::Conflict(_)));
            match in_time(creating.into_future()).await {
                Ok(Created::Stored) => return self.open(order, request, trace).await,
                Ok(Created::TooMuch) => {
                    let why = format!("with all pending top-ups would raise the balance above {}", Money::MAX);
                    return Err(Invalid::new("amount", why).into());
                }
                Ok(Created::NotActive(status)) => return Err(Error::AccountNotActive(status)),
                // The id is taken, or a concurrent request has the key.
                Ok(Created::Taken) => joined = true,
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Overloaded("no order could be created; retry later".into()))
    }

    /// Requests of one user at the same time may exceed the limit by their number, which is bounded.
    async fn check_open_orders(&self, user: &UserId) -> Result<()> {
        let open = OrderFilter { user: user.clone(), status: Some(OrderStatus::Pending) };
        if in_time(self.orders.count_orders(&open)).await? >= self.terms.max_open {
            return Err(Error::InsufficientQuota(Limit::OpenTopUps));
        }
        Ok(())
    }

    async fn open(&self, order: Order, request: NewRecharge, trace: &CallerContext) -> Result<Started> {
        let payment = NewPayment {
            order: order.id.clone(),
            user: request.user,
            amount: request.amount,
            currency: self.terms.currency,
            method: request.method,
            client_ip: request.client_ip,
            return_url: request.return_to.map(|address| format!("{address}{}", order.id)),
        };
        let page = match self.gateway()?.open(&payment, trace).await {
            Ok(opened) => self.store_opened(&order, &opened).await.map(|()| opened.url),
            Err(error) => {
                tracing::warn!(order = %order.id, %error, "payment not opened; the order fails");
                Err(error.into())
            }
        };
        if page.is_err() {
            // If payment-service has opened a payment and the user pays it, it is still credited.
            let failed = PaymentUpdate::Failed { payment: None, amount: None };
            if let Err(error) = self.update(&order, failed).await {
                tracing::warn!(order = %order.id, %error, "order not marked as failed; it stays pending until it is reconciled");
            }
        }
        Ok(Started { order, page, is_new: true })
    }

    fn check(&self, request: &NewRecharge) -> Result<()> {
        let amount = request.amount;
        let Terms { currency, max_amount, .. } = &self.terms;
        if amount <= Money::ZERO || amount > *max_amount {
            return Err(Invalid::new("amount", format!("must be above 0 and at most {max_amount}")).into());
        }
        currency.check_places("amount", amount)?;
        if request.currency.as_ref().is_some_and(|asked| asked != currency.code()) {
            return Err(Invalid::new("currency", format!("must be {currency}, as the account")).into());
        }
        Ok(())
    }

    fn new_order(&self, request: &NewRecharge) -> Order {
        let now = self.calendar.now();
        Order {
            id: fresh_id(&request.user, now),
            user: request.user.clone(),
            amount: request.amount,
            method: Some(request.method),
            status: OrderStatus::Pending,
            payment: None,
            payment_url: None,
            idempotency_key: request.idempotency_key.clone(),
            refunded: Money::ZERO,
            refunding: Money::ZERO,
            credited_at: None,
            created_at: now.utc,
            updated_at: now.utc,
        }
    }

    /// Stores the payment with its order. Refuses the payment of another order. A payment that is
    /// not stored is still credited. With a key, its page is not handed out, because a repeat would
    /// not find the page.
    async fn store_opened(&self, order: &Order, opened: &OpenedPayment) -> Result<()> {
        let update = PaymentUpdate::Opened { payment: opened.id.clone(), url: opened.url.clone() };
        let has_key = order.idempotency_key.is_some();
        match self.update(order, update).await {
            Ok((stored, _)) if has_key && stored.payment_url.is_none() && stored.status != OrderStatus::Success => {
                Err(Error::PaymentUnavailable("the order was given up before its payment was opened".into()))
            }
            Ok(_) => Ok(()),
            Err(Error::DuplicateRecharge(why)) => {
                Err(Error::PaymentUnavailable(format!("payment-service returned the payment of another order: {why}")))
            }
            Err(error) => {
                tracing::warn!(order = %order.id, %error, "payment not stored with its order");
                if has_key { Err(error) } else { Ok(()) }
            }
        }
    }
}

/// A new order id, `recharge_{user_id}_{unix seconds}_{suffix}`, at most 63 characters: the format of
/// the legacy service and six hexadecimal digits, so that two ids of one second differ.
fn fresh_id(user: &UserId, now: BillingTime) -> OrderId {
    let seconds = now.utc.timestamp();
    // The last bytes of a version 7 UUID are random; the first ones are the time.
    let [.., a, b, c] = Uuid::now_v7().into_bytes();
    OrderId::from_stored(format!("recharge_{user}_{seconds}_{a:02x}{b:02x}{c:02x}"))
}

#[cfg(test)]
mod tests {
    use chrono::Utc;

    use super::*;
    use crate::biz::values::calendar::{Calendar, SystemClock};

    #[test]
    fn the_longest_order_id_fits_its_column() {
        let calendar = Calendar::new(chrono_tz::Asia::Shanghai, SystemClock);
        let user = UserId::parse("user_id", &"u".repeat(UserId::MAX_LEN)).unwrap();
        let first = fresh_id(&user, calendar.at(Utc::now()));
        assert!(OrderId::parse("order_id", first.as_str()).is_ok(), "{first}");
        assert_ne!(first, fresh_id(&user, calendar.at(Utc::now())));
    }
}
