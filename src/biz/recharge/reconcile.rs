//! Callbacks can be lost: orders that stay pending are looked up at payment-service.

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;

use super::{
    Recharges,
    gateway::{PaymentError, TraceContext},
    in_time,
    order::Made,
};
use crate::biz::{
    settlement::{
        order::{Order, OrderStatus},
        posting::PaymentUpdate,
    },
    values::error::{Error, Result},
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
pub struct ReconciledOrders {
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
    pub async fn reconcile(&self, waits: Waits) -> Result<ReconciledOrders> {
        self.scan(waits, None).await
    }

    /// What [`Self::reconcile`] would do now, with `listed` of the orders at the most. Asks
    /// payment-service, and settles nothing.
    ///
    /// # Errors
    /// As [`Self::reconcile`].
    pub async fn preview(&self, waits: Waits, listed: usize) -> Result<ReconcilePreview> {
        let mut list = List { orders: Vec::new(), room: listed };
        let total = self.scan(waits, Some(&mut list)).await?;
        Ok(ReconcilePreview { total, first: list.orders })
    }

    /// With a list, enters there what would become of the orders, and settles none.
    async fn scan(&self, waits: Waits, mut list: Option<&mut List>) -> Result<ReconciledOrders> {
        self.gateway()?;
        let now = self.calendar.now().utc;
        let (until, expired) = (now - waits.reconcile_after, now - waits.expire_after);
        let mut total = ReconciledOrders::default();
        let pending = Made { status: OrderStatus::Pending, from: DateTime::UNIX_EPOCH, until };
        let failed = Made { status: OrderStatus::Failed, from: expired, until };
        for made in [pending, failed] {
            let mut last: Option<Order> = None;
            // Ends: each chunk begins behind the last, and new orders are younger.
            loop {
                let chunk = in_time(self.orders.orders_made(&made, last.as_ref(), CHUNK)).await?;
                let Some(end) = chunk.last().cloned() else { break };
                if let Some(outage) = self.reconcile_chunk(&chunk, expired, &mut total, list.as_deref_mut()).await {
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
        total: &mut ReconciledOrders,
        mut list: Option<&mut List>,
    ) -> Option<PaymentError> {
        let settles = list.is_none();
        let looked_up = orders.iter().map(|order| self.look_up(order, order.created_at <= expired, settles));
        let looked_up = join_all(looked_up).await;
        let mut outages = Vec::new();
        for (order, after) in orders.iter().zip(looked_up) {
            let error = match after {
                Ok(after) => {
                    if let Some(list) = &mut list {
                        list.enter(order, after);
                    }
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
                Err(NotSettled::Refused(error)) => error.in_full().to_string(),
            };
            tracing::warn!(order = %order.id, error, "an order could not be settled");
            total.errors += 1;
        }
        if outages.len() == orders.len() { outages.pop() } else { None }
    }

    /// The order's status afterwards, or what it would be where nothing is settled.
    async fn look_up(
        &self,
        order: &Order,
        expires: bool,
        settles: bool,
    ) -> std::result::Result<OrderStatus, NotSettled> {
        let payment = self.gateway()?.payment_of(&order.id, &TraceContext::default()).await?;
        let payment_update = match payment {
            Some(payment) => self.news_of(&payment)?,
            None => None,
        };
        let payment_update = payment_update.or(expires.then_some(PaymentUpdate::Expired));
        match payment_update {
            None => Ok(order.status),
            Some(payment_update) if settles => Ok(self.update(order, payment_update).await?.0.status),
            Some(payment_update) => Ok(would_become(order, &payment_update)?),
        }
    }
}

/// As the rule of orders has it, which knows more: whether another order has the payment,
/// and what the order became meanwhile.
fn would_become(order: &Order, payment_update: &PaymentUpdate) -> Result<OrderStatus> {
    match payment_update {
        PaymentUpdate::Paid { amount, .. } if *amount != order.amount => Err(order.amount_mismatch()),
        PaymentUpdate::Paid { .. } => Ok(OrderStatus::Success),
        PaymentUpdate::Failed { .. } => Ok(OrderStatus::Failed),
        PaymentUpdate::Expired if order.status == OrderStatus::Pending => Ok(OrderStatus::Expired),
        PaymentUpdate::Expired | PaymentUpdate::Opened { .. } => Ok(order.status),
    }
}

/// What would become of the orders that are looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReconcilePreview {
    pub total: ReconciledOrders,
    /// The first orders, and the status each would have.
    pub first: Vec<(Order, OrderStatus)>,
}

/// Orders that are listed, and for how many more there is room.
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
