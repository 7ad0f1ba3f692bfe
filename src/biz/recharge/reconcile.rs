//! Callbacks can be lost: orders that stay pending are looked up at payment-service.

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;

use super::{
    Recharges,
    gateway::TraceContext,
    order::{Order, OrderStatus},
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

/// What became of the pending orders.
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
    /// Without an answer nothing expires: the money may be in. Any number of runs at
    /// once, beside callbacks, credit once.
    ///
    /// # Errors
    /// [`Error::PaymentUnavailable`] when payment-service does not answer; the rest waits
    /// for the next run. [`Error::Overloaded`] or [`Error::Internal`] when the orders
    /// can't be read.
    pub async fn reconcile(&self, waits: Waits) -> Result<Reconciled> {
        self.gateway()?;
        let now = self.calendar.now().utc;
        let mut total = Reconciled::default();
        let mut last: Option<Order> = None;
        // Ends: each chunk begins behind the last, and new orders are younger.
        loop {
            let chunk = self.orders.pending_orders(now - waits.reconcile_after, last.as_ref(), CHUNK).await?;
            let Some(end) = chunk.last().cloned() else { return Ok(total) };
            let outage = self.reconcile_chunk(&chunk, now - waits.expire_after, &mut total).await;
            if let Some(outage) = outage {
                tracing::warn!(?total, "stopped, because payment-service does not answer");
                return Err(outage);
            }
            last = Some(end);
        }
    }

    /// The outage, when payment-service answered for none of them. A single order that
    /// has no answer must not keep those behind it from theirs.
    async fn reconcile_chunk(&self, orders: &[Order], expired: DateTime<Utc>, total: &mut Reconciled) -> Option<Error> {
        let mut unanswered = Vec::new();
        let looked_up = join_all(orders.iter().map(|order| self.look_up(order, order.created_at <= expired)));
        for (order, status) in orders.iter().zip(looked_up.await) {
            match status {
                Ok(OrderStatus::Success) => total.credited += 1,
                Ok(OrderStatus::Failed) => total.failed += 1,
                Ok(OrderStatus::Expired) => total.expired += 1,
                Ok(OrderStatus::Pending) => total.left += 1,
                Err(error) => {
                    tracing::warn!(order = %order.id, %error, "a pending order could not be settled");
                    total.errors += 1;
                    unanswered.extend(matches!(error, Error::PaymentUnavailable(_)).then_some(error));
                }
            }
        }
        unanswered.pop().filter(|_| unanswered.len() + 1 == orders.len())
    }

    /// The order's status afterwards.
    async fn look_up(&self, order: &Order, expires: bool) -> Result<OrderStatus> {
        let payment = self.gateway()?.payment_of(&order.id, &TraceContext::default()).await?;
        let settled = match payment {
            Some(payment) => self.settle_by(order, &payment).await?,
            None => None,
        };
        let settled = match settled {
            None if expires => Some(self.update(order, OrderNews::Expired).await?),
            settled => settled,
        };
        Ok(settled.map_or(OrderStatus::Pending, |(order, _)| order.status))
    }
}
