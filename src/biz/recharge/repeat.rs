//! A repeated request for a top-up with the same idempotency key. It gets the first order and its
//! page, so that a user can pay at most one order of a key.
//!
//! A failed attempt has handed out no page, because a page is stored with its order before it is
//! handed out. A later request makes a new attempt: its order takes over the key in the transaction
//! that creates the order. A request during an attempt waits for the attempt and gets its answer.

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

/// Pause between two reads of an attempt in progress.
const POLL: Duration = Duration::from_millis(100);
/// Longest time of an attempt beyond its call to payment-service, including retries of its
/// settlements. The server of an older attempt has died.
pub(super) const SETTLING: Duration = Duration::from_secs(30);

/// The first order of a key.
pub(super) enum First {
    /// There is none.
    None,
    /// The answer to return.
    Answer(Started),
    /// An attempt that failed before this request arrived.
    Failed(Order),
}

impl Recharges {
    /// The first order of a key, after a check of its content. Waits for an attempt in progress.
    /// `joined` means that the request arrived during the attempt.
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
                // The payment was reported before its page was stored. Nothing is left to pay.
                (None, OrderStatus::Success | OrderStatus::Refunded) => return Ok(answer(order, Ok(String::new()))),
                (None, OrderStatus::Failed) if joined => {
                    let why = "the first request with this idempotency_key failed; try again later";
                    return Ok(answer(order, Err(Error::PaymentUnavailable(why.into()))));
                }
                (None, OrderStatus::Failed) => return Ok(First::Failed(order)),
                (None, OrderStatus::Pending | OrderStatus::Expired) => {}
            }
            if self.has_died(&order) {
                // From now on the page is neither stored nor handed out.
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
