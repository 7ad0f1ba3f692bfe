//! Starts a top-up: creates the order, and opens its payment.

use uuid::Uuid;

use super::{
    Recharges, Terms,
    gateway::{NewPayment, OpenedPayment, TraceContext},
    in_time,
    order::Created,
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
        money::Money,
    },
};

/// Orders that are tried to be made: a second is for a request with the same key at the same
/// time, and an id that is taken is unheard of.
const ORDER_ATTEMPTS: u32 = 5;

impl Recharges {
    /// Makes an order and opens its payment; a repeat of a key gets the first one. Once begun
    /// it must go on to its end, also when the caller goes away: a payment that was opened is
    /// to stand in its order.
    ///
    /// # Errors
    /// Without an order: [`Error::Invalid`], [`Error::IdempotencyConflict`],
    /// [`Error::PaymentUnavailable`] where no payment-service is configured,
    /// [`Error::Overloaded`], [`Error::Internal`]. With one, which is failed then:
    /// [`Error::PaymentUnavailable`], and with a key [`Error::Overloaded`], inside.
    pub async fn start(&self, request: NewRecharge, trace: &TraceContext) -> Result<Started> {
        let mut joined = false;
        for _ in 0..ORDER_ATTEMPTS {
            // Before any check: a repeat is answered even if the configuration has changed.
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
            let order = self.new_order(&request);
            match in_time(self.orders.create_order(&order, replaced.as_ref().map(|order| &order.id))).await {
                Ok(Created::Kept) => return self.open(order, request, trace).await,
                Ok(Created::TooMuch) => {
                    let why = format!("with the pending top-ups takes the balance beyond {}", Money::MAX);
                    return Err(Invalid::new("amount", why).into());
                }
                // The id is taken, or the key by a request at the same time.
                Ok(Created::Taken) => joined = true,
                Err(StoreError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Overloaded("no order could be made; retry".into()))
    }

    async fn open(&self, order: Order, request: NewRecharge, trace: &TraceContext) -> Result<Started> {
        let payment = NewPayment {
            order: order.id.clone(),
            user: request.user,
            amount: request.amount,
            currency: self.terms.currency,
            method: request.method,
            client_ip: request.client_ip,
        };
        let page = match self.gateway()?.open(&payment, trace).await {
            Ok(opened) => self.note_opened(&order, &opened).await.map(|()| opened.url),
            Err(error) => {
                tracing::warn!(order = %order.id, %error, "payment not opened; the order fails");
                Err(error.into())
            }
        };
        if page.is_err() {
            // Should a payment have been opened all the same, and be paid, it is credited.
            let failed = PaymentUpdate::Failed { payment: None, amount: None };
            if let Err(error) = self.update(&order, failed).await {
                tracing::warn!(order = %order.id, %error, "the order stays pending until it is reconciled");
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
            created_at: now.utc,
            updated_at: now.utc,
        }
    }

    /// Keeps the payment with its order. A payment that another order has is refused. Without
    /// this note a payment is credited as well; but a page that a repeat of the key would not
    /// find is not handed out.
    async fn note_opened(&self, order: &Order, opened: &OpenedPayment) -> Result<()> {
        let update = PaymentUpdate::Opened { payment: opened.id.clone(), url: opened.url.clone() };
        let has_key = order.idempotency_key.is_some();
        match self.update(order, update).await {
            Ok((noted, _)) if has_key && noted.payment_url.is_none() && noted.status != OrderStatus::Success => {
                Err(Error::PaymentUnavailable("the order was given up before its payment was opened".into()))
            }
            Ok(_) => Ok(()),
            Err(Error::DuplicateRecharge(why)) => {
                Err(Error::PaymentUnavailable(format!("payment-service opened no payment of its own: {why}")))
            }
            Err(error) => {
                tracing::warn!(order = %order.id, %error, "the payment is not noted with its order");
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
