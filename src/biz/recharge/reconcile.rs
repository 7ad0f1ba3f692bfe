//! Looks up pending orders and refunds at payment-service, because callbacks and answers can be lost.

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;

use super::{
    NotSettled, Recharges,
    gateway::{CallerContext, Payment, PaymentError},
    in_time,
    order::OrderScan,
    refund::RefundedOrder,
    resolve::Reported,
};
use crate::biz::{
    settlement::{
        order::{Order, OrderStatus},
        order_refund::{OrderRefund, RefundStatus},
        posting::PaymentUpdate,
        unapplied::{UnappliedCause, UnappliedPayment, UnappliedStatus},
    },
    values::{currency::Currency, error::Result, paging::Cursor},
};

/// Orders that are looked up in parallel. The number is small because payment-service has other
/// callers.
const CHUNK: u32 = 16;

/// The ages at which the job handles an order.
#[derive(Debug, Clone, Copy)]
pub struct Waits {
    /// Age at which payment-service is asked instead of a further wait for the callback.
    pub reconcile_after: TimeDelta,
    /// Age at which an unpaid order expires.
    pub expire_after: TimeDelta,
}

/// The outcomes of the orders that were looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReconciledOrders {
    pub credited: u64,
    pub failed: u64,
    pub expired: u64,
    /// Orders that are still pending.
    pub left: u64,
    /// Refunds that were made, that failed, and that are still pending, of top-ups and of unapplied
    /// payments.
    pub refunded: u64,
    pub not_refunded: u64,
    pub refunds_left: u64,
    /// Orders and refunds that could not be settled. Each is logged.
    pub errors: u64,
}

/// A change by the job.
#[derive(Debug, Clone, Copy)]
pub enum Reconciled<'r> {
    /// An order, and its new status.
    Order(&'r Order, OrderStatus),
    Refund(&'r RefundedOrder),
}

/// Receives each order and each refund whose status has changed.
pub type OnSettled<'f> = &'f (dyn Fn(Reconciled<'_>) + Sync);

/// The treatment of the orders that a scan looks up.
enum Treatment<'t> {
    Settle(OnSettled<'t>),
    /// Lists each order with the status that it would get, and settles none.
    List(&'t mut List),
}

impl Recharges {
    /// Looks up every order that has been pending for long, and credits it, fails it or leaves it.
    /// An old order expires if payment-service answers that it is not paid. Without an answer no order
    /// expires, because it may be paid. Failed orders are looked up too, up to the same age, because
    /// the user may have tried again. Parallel runs and callbacks credit an order once. Pending refunds
    /// are looked up however old they are. `on_settled` gets every order and refund whose status has
    /// changed.
    ///
    /// # Errors
    /// [`Error::PaymentUnavailable`]: payment-service is unavailable; the next run looks up the
    /// remaining orders. [`Error::Overloaded`] or [`Error::Internal`]: the orders can't be read.
    pub async fn reconcile(&self, waits: Waits, on_settled: OnSettled<'_>) -> Result<ReconciledOrders> {
        self.scan(waits, Treatment::Settle(on_settled)).await
    }

    /// Counts the outcomes that [`Self::reconcile`] would have now, and lists at most `listed`
    /// orders. Asks payment-service, and settles no order.
    ///
    /// # Errors
    /// As [`Self::reconcile`].
    pub async fn preview(&self, waits: Waits, listed: usize) -> Result<ReconcilePreview> {
        let mut list = List { orders: Vec::new(), room: listed };
        let total = self.scan(waits, Treatment::List(&mut list)).await?;
        Ok(ReconcilePreview { total, first: list.orders })
    }

    async fn scan(&self, waits: Waits, mut treatment: Treatment<'_>) -> Result<ReconciledOrders> {
        self.gateway()?;
        let now = self.calendar.now().utc;
        let (until, expired) = (now - waits.reconcile_after, now - waits.expire_after);
        let mut total = ReconciledOrders::default();
        let pending = OrderScan { status: OrderStatus::Pending, from: DateTime::UNIX_EPOCH, until };
        let failed = OrderScan { status: OrderStatus::Failed, from: expired, until };
        for scan in [pending, failed] {
            let mut last: Option<Order> = None;
            // Ends, because each chunk begins after the last one, and new orders are younger.
            loop {
                let chunk = in_time(self.orders.scan_orders(&scan, last.as_ref(), CHUNK)).await?;
                let Some(end) = chunk.last().cloned() else { break };
                if let Some(outage) = self.reconcile_chunk(&chunk, expired, &mut total, &mut treatment).await {
                    tracing::warn!(?total, "payment-service unavailable; the next run continues");
                    return Err(outage.into());
                }
                last = Some(end);
            }
        }
        self.scan_refunds(until, &mut total, &treatment).await?;
        self.scan_unapplied(until, &mut total, &treatment).await?;
        Ok(total)
    }

    /// Looks up the pending refunds of top-ups.
    async fn scan_refunds(
        &self,
        until: DateTime<Utc>,
        total: &mut ReconciledOrders,
        treatment: &Treatment<'_>,
    ) -> Result<()> {
        let mut last: Option<OrderRefund> = None;
        // Ends, because each chunk begins after the last one, and new refunds are younger.
        loop {
            let chunk = in_time(self.orders.pending_refunds(until, last.as_ref(), CHUNK)).await?;
            let Some(end) = chunk.last().cloned() else { return Ok(()) };
            let looked_up = chunk.iter().map(|refund| self.look_up_refund(refund, treatment.settles()));
            for (refund, after) in chunk.iter().zip(join_all(looked_up).await) {
                match after {
                    Ok(after) => {
                        total.count_refund(after.refund.status);
                        if let (Treatment::Settle(on_settled), true) = (treatment, after.changed) {
                            on_settled(Reconciled::Refund(&after));
                        }
                    }
                    Err(error) => total.note_error("refund", refund.id.as_str(), error),
                }
            }
            last = Some(end);
        }
    }

    /// Looks up the refunds of unapplied payments.
    async fn scan_unapplied(
        &self,
        until: DateTime<Utc>,
        total: &mut ReconciledOrders,
        treatment: &Treatment<'_>,
    ) -> Result<()> {
        let mut last: Option<Cursor> = None;
        // Ends, because each chunk begins after the last one, and goes to older payments.
        loop {
            let refunding = Some(UnappliedStatus::Refunding);
            let chunk = in_time(self.orders.unapplied_payments(refunding, last.as_ref(), CHUNK)).await?;
            let Some(end) = chunk.last() else { return Ok(()) };
            last = Some(Cursor { created_at: end.first_seen_at, id: end.payment.to_string() });
            let is_due = |payment: &&UnappliedPayment| payment.resolved_at.is_none_or(|began| began <= until);
            let due: Vec<_> = chunk.iter().filter(is_due).collect();
            let looked_up = due.iter().map(|payment| self.look_up_unapplied(payment, treatment.settles()));
            for (payment, after) in due.iter().zip(join_all(looked_up).await) {
                match after {
                    Ok(UnappliedStatus::Refunded) => total.count_refund(RefundStatus::Success),
                    Ok(UnappliedStatus::Refunding) => total.count_refund(RefundStatus::Pending),
                    Ok(_) => total.count_refund(RefundStatus::Failed),
                    Err(error) => total.note_error("unapplied payment", payment.payment.as_str(), error),
                }
            }
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
            let error = match after {
                Ok(after) => {
                    match treatment {
                        Treatment::List(list) => list.enter(order, after),
                        Treatment::Settle(on_settled) if order.status != after => {
                            on_settled(Reconciled::Order(order, after));
                        }
                        Treatment::Settle(_) => {}
                    }
                    match after {
                        OrderStatus::Success | OrderStatus::Refunded => total.credited += 1,
                        // The order was failed before, or has failed just now.
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
                Err(NotSettled::Refused(error)) => error.in_full().to_string(),
            };
            tracing::warn!(order = %order.id, error, "order not settled; the next run tries again");
            total.errors += 1;
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
        let settled = self.look_up_payment(order, payment.as_ref(), expires, settles).await;
        if let (Err(error), Some(payment), true) = (&settled, &payment, settles)
            && let (Some(cause), Some(currency)) = (UnappliedCause::of(error), Currency::parse(&payment.currency))
            && let Some(amount) = currency.from_minor(payment.minor_amount)
        {
            let reported = Reported { order: &order.id, payment: &payment.id, amount, currency: currency.code() };
            self.keep_unapplied(reported, cause).await?;
        }
        Ok(settled?)
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

impl Treatment<'_> {
    fn settles(&self) -> bool {
        matches!(self, Self::Settle(_))
    }
}

impl ReconciledOrders {
    fn count_refund(&mut self, status: RefundStatus) {
        match status {
            RefundStatus::Success => self.refunded += 1,
            RefundStatus::Failed => self.not_refunded += 1,
            RefundStatus::Pending => self.refunds_left += 1,
        }
    }

    fn note_error(&mut self, thing: &str, id: &str, error: NotSettled) {
        let error = match error {
            NotSettled::Unanswered(error) => error.to_string(),
            NotSettled::Refused(error) => error.in_full().to_string(),
        };
        tracing::warn!(thing, id, error, "refund not settled; the next run tries again");
        self.errors += 1;
    }
}

/// The preview of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReconcilePreview {
    pub total: ReconciledOrders,
    /// The first orders, and the status each would have.
    pub first: Vec<(Order, OrderStatus)>,
}

/// Listed orders, and the number that may still be added.
struct List {
    orders: Vec<(Order, OrderStatus)>,
    room: usize,
}

impl List {
    fn enter(&mut self, order: &Order, after: OrderStatus) {
        if self.room > 0 {
            self.room -= 1;
            self.orders.push((order.clone(), after));
        }
    }
}
