//! Looks up orders and refunds at payment-service, because callbacks and answers can be lost.

mod orders;
mod refunds;

use chrono::{DateTime, TimeDelta};

use super::{
    NotSettled, Recharges,
    gateway::PaymentError,
    order::{OrderScan, RefundScan},
    refund::RefundedOrder,
};
use crate::biz::{
    settlement::{
        order::{Order, OrderStatus},
        order_refund::RefundStatus,
    },
    values::error::Result,
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
    /// are looked up however old they are, and failed ones until that time after their failure. `on_settled`
    /// gets every order and refund whose status has changed.
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

    /// Runs every scan. An outage ends only its own scan, so that an order without an answer blocks no
    /// refund.
    async fn scan(&self, waits: Waits, mut treatment: Treatment<'_>) -> Result<ReconciledOrders> {
        self.gateway()?;
        let now = self.calendar.now().utc;
        let (until, expired) = (now - waits.reconcile_after, now - waits.expire_after);
        let mut total = ReconciledOrders::default();
        let mut outcome = Ok(());
        for (status, from) in [(OrderStatus::Pending, DateTime::UNIX_EPOCH), (OrderStatus::Failed, expired)] {
            let scan = OrderScan { status, from, until };
            outcome = outcome.and(self.scan_orders(&scan, expired, &mut total, &mut treatment).await);
        }
        for (status, from) in [(RefundStatus::Pending, DateTime::UNIX_EPOCH), (RefundStatus::Failed, expired)] {
            let scan = RefundScan { status, from, until };
            outcome = outcome.and(self.scan_refunds(&scan, &mut total, &treatment).await);
        }
        outcome = outcome.and(self.scan_unapplied(until, &mut total, &treatment).await);
        if let Err(error) = &outcome {
            tracing::warn!(%error, ?total, "not everything was looked up; the next run continues");
        }
        outcome.map(|()| total)
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

    /// Counts and logs an error. Returns it if it is an outage of payment-service.
    fn note_error(&mut self, thing: &str, id: &str, error: NotSettled) -> Option<PaymentError> {
        self.errors += 1;
        let text = match &error {
            NotSettled::Unanswered(error) => error.to_string(),
            NotSettled::Refused(error) => error.in_full().to_string(),
        };
        tracing::warn!(thing, id, error = text, "not settled; the next run tries again");
        match error {
            NotSettled::Unanswered(outage @ PaymentError::Unavailable(_)) => Some(outage),
            NotSettled::Unanswered(_) | NotSettled::Refused(_) => None,
        }
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
