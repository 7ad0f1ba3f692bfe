//! Looks up pending and failed orders.

use chrono::{DateTime, Utc};
use futures_util::future::join_all;

use super::{CHUNK, Reconciled, ReconciledOrders, Treatment};
use crate::biz::{
    recharge::{
        NotSettled, Recharges,
        gateway::{CallerContext, Payment, PaymentError},
        in_time,
        keep::Reported,
        order::OrderScan,
    },
    settlement::{
        order::{Order, OrderStatus},
        posting::PaymentUpdate,
        unapplied::{UnappliedCause, UnappliedPayment, UnappliedStatus},
    },
    values::error::{Error, Result},
};

impl Recharges {
    /// Looks up the orders of a scan.
    ///
    /// # Errors
    /// [`Error::PaymentUnavailable`]: no order of a chunk was answered for. [`Error::Overloaded`],
    /// [`Error::Internal`].
    pub(super) async fn scan_orders(
        &self,
        scan: &OrderScan,
        expired: DateTime<Utc>,
        total: &mut ReconciledOrders,
        treatment: &mut Treatment<'_>,
    ) -> Result<()> {
        let mut last: Option<Order> = None;
        // Ends, because each chunk begins after the last one, and new orders are younger.
        loop {
            let chunk = in_time(self.orders.scan_orders(scan, last.as_ref(), CHUNK)).await?;
            let Some(end) = chunk.last().cloned() else { return Ok(()) };
            if let Some(outage) = self.reconcile_chunk(&chunk, expired, total, treatment).await {
                return Err(outage.into());
            }
            last = Some(end);
        }
    }

    /// Looks up a chunk of orders. Returns an outage if payment-service answered for none of them. A
    /// single order without an answer must not block the following ones.
    async fn reconcile_chunk(
        &self,
        orders: &[Order],
        expired: DateTime<Utc>,
        total: &mut ReconciledOrders,
        treatment: &mut Treatment<'_>,
    ) -> Option<PaymentError> {
        let settles = treatment.settles();
        let looked_up = orders.iter().map(|order| self.look_up(order, order.created_at <= expired, settles));
        let looked_up = join_all(looked_up).await;
        let mut outages = Vec::new();
        for (order, after) in orders.iter().zip(looked_up) {
            let after = match after {
                Ok(after) => after,
                Err(error) => {
                    outages.extend(total.note_error("order", order.id.as_str(), error));
                    continue;
                }
            };
            match treatment {
                Treatment::List(list) => list.enter(order, after),
                Treatment::Settle(on_settled) if order.status != after => on_settled(Reconciled::Order(order, after)),
                Treatment::Settle(_) => {}
            }
            match after {
                OrderStatus::Success | OrderStatus::Refunded => total.credited += 1,
                // The order was failed before, or has failed just now.
                OrderStatus::Failed => total.failed += u64::from(order.status != after),
                OrderStatus::Expired => total.expired += 1,
                OrderStatus::Pending => total.left += 1,
            }
        }
        if outages.len() == orders.len() { outages.pop() } else { None }
    }

    /// The status of the order afterwards. Without `settles`, the status that it would have.
    async fn look_up(
        &self,
        order: &Order,
        expires: bool,
        settles: bool,
    ) -> std::result::Result<OrderStatus, NotSettled> {
        let payment = self.gateway()?.payment_of(&order.id, &CallerContext::default()).await?;
        match (self.look_up_payment(order, payment.as_ref(), expires, settles).await, payment) {
            (Err(refusal), Some(payment)) => {
                self.keep_refused(order, &payment, refusal, settles).await?;
                // The order goes on as one without a payment.
                Ok(self.look_up_payment(order, None, expires, settles).await?)
            }
            (settled, _) => Ok(settled?),
        }
    }

    async fn look_up_payment(
        &self,
        order: &Order,
        payment: Option<&Payment>,
        expires: bool,
        settles: bool,
    ) -> Result<OrderStatus> {
        let payment_update = match payment {
            Some(payment) => self.update_from(payment)?,
            None => None,
        };
        let payment_update = payment_update.or(expires.then_some(PaymentUpdate::Expired));
        match payment_update {
            None => Ok(order.status),
            Some(payment_update) if settles => Ok(self.update(order, payment_update).await?.0.status),
            Some(payment_update) => would_become(order, &payment_update),
        }
    }

    /// Keeps the payment of an order that can't be credited to it. Later runs do not count it again.
    ///
    /// # Errors
    /// The refusal, if the payment may still be credited later.
    async fn keep_refused(&self, order: &Order, payment: &Payment, refusal: Error, settles: bool) -> Result<()> {
        let (Some(cause), Some((currency, amount))) = (UnappliedCause::of(&refusal), payment.money()) else {
            return Err(refusal);
        };
        if !settles {
            return Ok(());
        }
        let known = in_time(self.orders.unapplied_payment(&payment.id)).await?;
        // If only a return of it was reported, the row has the sum of that, and this report decides on the amount.
        let is_kept = |known: UnappliedPayment| {
            known.times_seen > 0 && (known.status != UnappliedStatus::Open || known.amount == amount)
        };
        if known.is_some_and(is_kept) {
            return Ok(());
        }
        let reported = Reported { order: &order.id, payment: &payment.id, amount, currency: currency.code() };
        self.keep_unapplied(reported, cause).await
    }
}

/// The status that the rule of orders would give. The rule also checks that no other order has the
/// payment, and reads the current status.
fn would_become(order: &Order, payment_update: &PaymentUpdate) -> Result<OrderStatus> {
    match payment_update {
        PaymentUpdate::Paid { amount, .. } if *amount != order.amount => Err(order.amount_mismatch()),
        PaymentUpdate::Paid { .. } => Ok(OrderStatus::Success),
        PaymentUpdate::Failed { .. } => Ok(OrderStatus::Failed),
        PaymentUpdate::Expired if order.status == OrderStatus::Pending => Ok(OrderStatus::Expired),
        PaymentUpdate::Expired | PaymentUpdate::Opened { .. } => Ok(order.status),
    }
}
