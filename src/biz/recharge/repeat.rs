//! A top-up that is asked for again with the same idempotency key. Its first order stands, and
//! the page that was handed out for it: at most one order of a key can be paid by the user.
//!
//! An attempt that failed handed out no page, because with a key a page is handed out only
//! once it is noted with its order. A request that comes after it tries anew: a new order takes
//! the key over in the transaction that makes it. Requests that come while an attempt goes on
//! wait for it, and get its answer.

use std::time::Duration;

use chrono::TimeDelta;
use tokio::time::{Instant, sleep};

use super::{
    Recharges, in_time,
    request::{NewRecharge, Started},
};
use crate::biz::{
    settlement::{
        order::{Order, OrderStatus},
        posting::PaymentUpdate,
    },
    values::{
        error::{Error, Result},
        ids::IdempotencyKey,
    },
};

/// Between two looks at an attempt that goes on.
const POLL: Duration = Duration::from_millis(100);
/// How much longer than its call to payment-service an attempt may take, retries of its
/// settlements included. One that is older has died with its server.
const SETTLING: Duration = Duration::from_secs(30);

/// What there is of a key.
pub(super) enum First {
    /// Nothing.
    None,
    /// The answer to give.
    Answer(Started),
    /// An attempt that failed before this request came.
    Failed(Order),
}

impl Recharges {
    /// The first order of a key, with its content checked. An attempt that goes on is waited
    /// for; `joined`: the request came while it did.
    pub(super) async fn first_of(
        &self,
        request: &NewRecharge,
        key: &IdempotencyKey,
        mut joined: bool,
    ) -> Result<First> {
        let deadline = Instant::now() + self.terms.payment_timeout;
        loop {
            let Some(order) = in_time(self.orders.order_of_key(&request.user, key)).await? else {
                return Ok(First::None);
            };
            self.check_same(request, &order)?;
            let answer = |order, page| First::Answer(Started { order, page, is_new: false });
            match (&order.payment_url, order.status) {
                (Some(url), _) => return Ok(answer(order.clone(), Ok(url.clone()))),
                // Its report was faster than its page, and there is nothing left to pay.
                (None, OrderStatus::Success) => return Ok(answer(order, Ok(String::new()))),
                (None, OrderStatus::Failed) if joined => {
                    let why = "the first request with this idempotency_key failed; try again later";
                    return Ok(answer(order, Err(Error::PaymentUnavailable(why.into()))));
                }
                (None, OrderStatus::Failed) => return Ok(First::Failed(order)),
                (None, OrderStatus::Pending | OrderStatus::Expired) => {}
            }
            if self.has_died(&order) {
                // From now on its page is not noted any more, and so not handed out.
                self.update(&order, PaymentUpdate::Failed { payment: None, amount: None }).await?;
            } else if Instant::now() >= deadline {
                let why = "the first request with this idempotency_key has no answer yet; retry with the same key";
                return Err(Error::Overloaded(why.into()));
            } else {
                joined = true;
                sleep(POLL).await;
            }
        }
    }

    fn has_died(&self, order: &Order) -> bool {
        let longest = TimeDelta::from_std(self.terms.payment_timeout + SETTLING).unwrap_or(TimeDelta::MAX);
        self.calendar.now().utc - order.created_at > longest
    }

    fn check_same(&self, request: &NewRecharge, first: &Order) -> Result<()> {
        let currency = self.terms.currency.code();
        let differs = [
            ("amount", request.amount != first.amount),
            ("payment_method", Some(request.method) != first.method),
            ("currency", request.currency.as_deref().is_some_and(|asked| asked != currency)),
        ];
        let fields: Vec<_> = differs.into_iter().filter_map(|(field, differs)| differs.then_some(field)).collect();
        if fields.is_empty() {
            return Ok(());
        }
        Err(Error::IdempotencyConflict { id_field: "idempotency_key", fields })
    }
}
