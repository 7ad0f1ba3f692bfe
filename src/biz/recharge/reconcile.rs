//! Callbacks can be lost: orders that stay pending are looked up at payment-service.

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;

use super::{
    Recharges,
    gateway::{PaymentError, TraceContext},
    in_time,
    order::{Made, Order, OrderStatus},
};
use crate::biz::{
    error::{Error, Result},
    settlement::posting::OrderNews,
};

/// Orders that are looked up together: payment-service has other callers.
const CHUNK: u32 = 16;

/// How long an order may wait.
#[derive(Debug, Clone, Copy)]
pub struct Waits {
    /// For its callback, before payment-service is asked.
    pub reconcile_after: TimeDelta,
    /// For being paid, before it expires.
    pub expire_after: TimeDelta,
}

/// What became of the orders that were looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reconciled {
    pub credited: u64,
    pub failed: u64,
    pub expired: u64,
    /// Those that are still pending.
    pub left: u64,
    /// Those that could not be settled, each of which is logged.
    pub errors: u64,
}

impl Recharges {
    /// Looks up every order that has been pending for long: credits it, fails it, leaves
    /// it, or lets it expire when it is old and payment-service says that nobody paid.
    /// Without an answer nothing expires: the money may be in. Failed orders are looked
    /// up too, until they are as old: a payment may be tried again. Any number of runs at
    /// once, beside callbacks, credit once.
    ///
    /// # Errors
    /// [`Error::PaymentUnavailable`] when payment-service does not answer; the rest waits
    /// for the next run. [`Error::Overloaded`] or [`Error::Internal`] when the orders
    /// can't be read.
    pub async fn reconcile(&self, waits: Waits) -> Result<Reconciled> {
        self.gateway()?;
        let now = self.calendar.now().utc;
        let (until, expired) = (now - waits.reconcile_after, now - waits.expire_after);
        let mut total = Reconciled::default();
        let pending = Made { status: OrderStatus::Pending, from: DateTime::UNIX_EPOCH, until };
        let failed = Made { status: OrderStatus::Failed, from: expired, until };
        for made in [pending, failed] {
            let mut last: Option<Order> = None;
            // Ends: each chunk begins behind the last, and new orders are younger.
            loop {
                let chunk = in_time(self.orders.orders_made(&made, last.as_ref(), CHUNK)).await?;
                let Some(end) = chunk.last().cloned() else { break };
                if let Some(outage) = self.reconcile_chunk(&chunk, expired, &mut total).await {
                    tracing::warn!(?total, "stopped, because payment-service does not answer");
                    return Err(outage.into());
                }
                last = Some(end);
            }
        }
        Ok(total)
    }

    /// The outage, when payment-service answered for none of them. A single order that
    /// has no answer must not keep those behind it from theirs.
    async fn reconcile_chunk(
        &self,
        orders: &[Order],
        expired: DateTime<Utc>,
        total: &mut Reconciled,
    ) -> Option<PaymentError> {
        let looked_up = join_all(orders.iter().map(|order| self.look_up(order, order.created_at <= expired))).await;
        let mut outages = Vec::new();
        for (order, after) in orders.iter().zip(looked_up) {
            let error = match after {
                Ok(after) => {
                    match after {
                        OrderStatus::Success => total.credited += 1,
                        // As before, or while it was looked up.
                        OrderStatus::Failed => total.failed += u64::from(order.status != after),
                        OrderStatus::Expired => total.expired += 1,
                        OrderStatus::Pending => total.left += 1,
                    }
                    continue;
                }
                Err(NotSettled::Unanswered(error)) => {
                    let text = error.to_string();
                    outages.extend(matches!(error, PaymentError::Unavailable(_)).then_some(error));
                    text
                }
                Err(NotSettled::Refused(error)) => error.to_string(),
            };
            tracing::warn!(order = %order.id, error, "an order could not be settled");
            total.errors += 1;
        }
        if outages.len() == orders.len() { outages.pop() } else { None }
    }

    /// The order's status afterwards.
    async fn look_up(&self, order: &Order, expires: bool) -> std::result::Result<OrderStatus, NotSettled> {
        let payment = self.gateway()?.payment_of(&order.id, &TraceContext::default()).await?;
        let settled = match payment {
            Some(payment) => self.settle_by(order, &payment).await?,
            None => None,
        };
        let settled = match settled {
            None if expires => Some(self.update(order, OrderNews::Expired).await?),
            settled => settled,
        };
        Ok(settled.map_or(order.status, |(order, _)| order.status))
    }
}

/// Why an order was not settled.
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
