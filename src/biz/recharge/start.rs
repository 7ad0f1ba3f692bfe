//! The beginning of a top-up: an order, and its payment.

use std::net::IpAddr;

use uuid::Uuid;

use super::{
    Recharges, Terms,
    gateway::{NewPayment, OpenedPayment, TraceContext},
    in_time,
};
use crate::biz::{
    settlement::{
        order::{Order, OrderStatus, PaymentMethod},
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

/// A top-up as a user asks for it.
#[derive(Debug, Clone)]
pub struct NewRecharge {
    pub user: UserId,
    pub amount: Money,
    pub method: PaymentMethod,
    /// The account's when absent.
    pub currency: Option<String>,
    /// Of the user, where known.
    pub client_ip: Option<IpAddr>,
}

/// Ids that are tried before giving up; a second is already unheard of.
const ID_ATTEMPTS: u32 = 3;

impl Recharges {
    /// Makes an order and opens its payment. Once begun it must go on to its end, also when
    /// the caller goes away: a payment that was opened is to stand in its order.
    ///
    /// # Errors
    /// Without an order: [`Error::Invalid`], [`Error::PaymentUnavailable`] where no
    /// payment-service is configured, [`Error::Overloaded`], [`Error::Internal`]. With
    /// one, which is failed then: [`Error::PaymentUnavailable`], inside.
    pub async fn start(&self, request: NewRecharge, trace: &TraceContext) -> Result<(Order, Result<OpenedPayment>)> {
        self.check(&request)?;
        let gateway = self.gateway()?;
        let order = self.create(&request).await?;
        let payment = NewPayment {
            order: order.id.clone(),
            user: request.user,
            amount: request.amount,
            currency: self.terms.currency.clone(),
            method: request.method,
            client_ip: request.client_ip,
        };
        let opened = match gateway.open(&payment, trace).await {
            Ok(opened) => self.note_opened(&order, &opened).await.map(|()| opened),
            Err(error) => {
                tracing::warn!(order = %order.id, %error, "no payment was opened");
                Err(error.into())
            }
        };
        if opened.is_err() {
            // Should a payment have been opened all the same, and be paid, it is credited.
            if let Err(error) = self.update(&order, PaymentUpdate::Failed { payment: None, amount: None }).await {
                tracing::warn!(order = %order.id, %error, "the order stays pending until it is reconciled");
            }
        }
        Ok((order, opened))
    }

    fn check(&self, request: &NewRecharge) -> Result<()> {
        let amount = request.amount;
        let Terms { currency, max_amount } = &self.terms;
        if amount <= Money::ZERO || amount > *max_amount {
            return Err(Invalid::new("amount", format!("must be above 0 and at most {max_amount}")).into());
        }
        if amount.to_hundredths().is_none() {
            return Err(Invalid::new("amount", "must have at most 2 decimal places").into());
        }
        if request.currency.as_ref().is_some_and(|asked| asked != currency) {
            return Err(Invalid::new("currency", format!("must be {currency}, as the account")).into());
        }
        Ok(())
    }

    async fn create(&self, request: &NewRecharge) -> Result<Order> {
        for _ in 0..ID_ATTEMPTS {
            let now = self.calendar.now();
            let order = Order {
                id: fresh_id(&request.user, now),
                user: request.user.clone(),
                amount: request.amount,
                method: Some(request.method),
                status: OrderStatus::Pending,
                payment: None,
                payment_url: None,
                created_at: now.utc,
                updated_at: now.utc,
            };
            match in_time(self.orders.create_order(&order)).await {
                Ok(true) => return Ok(order),
                Ok(false) | Err(StoreError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Overloaded("no order id was free; retry".into()))
    }

    /// Keeps the payment with its order. Only one that another order has is refused:
    /// without this note a payment is credited as well.
    async fn note_opened(&self, order: &Order, opened: &OpenedPayment) -> Result<()> {
        let payment_update = PaymentUpdate::Opened { payment: opened.id.clone(), url: opened.url.clone() };
        match self.update(order, payment_update).await {
            Ok(_) => Ok(()),
            Err(Error::DuplicateRecharge(why)) => {
                Err(Error::PaymentUnavailable(format!("payment-service opened no payment of its own: {why}")))
            }
            Err(error) => {
                tracing::warn!(order = %order.id, %error, "the payment is not noted with its order");
                Ok(())
            }
        }
    }
}

/// `recharge_{user_id}_{unix seconds}_{suffix}`: as the legacy service made them, and
/// with six hexadecimal digits so that two in a second differ. 63 characters at most.
fn fresh_id(user: &UserId, now: BillingTime) -> OrderId {
    let seconds = now.utc.timestamp();
    // The last bytes of an id are random, the first ones are the time.
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
