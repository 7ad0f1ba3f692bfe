//! The engine: sends each posting to the lane of its user, and returns the outcome.
//!
//! No timer gathers a batch. While one transaction is in flight, the next batch collects. An idle
//! service therefore answers after one transaction, and a busy one shares locks, statements and the
//! commit among all waiting postings.

mod job;
mod lane;
mod parking;
mod reply;
mod settler;
mod trace;

use std::{
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    sync::Arc,
};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use self::{
    job::{Job, Ticket},
    lane::Lane,
    parking::Parking,
    reply::Reply,
    settler::Settler,
};
pub use self::{
    job::{LaneLimits, ParkingLimits},
    parking::ParkingSize,
    reply::{OrderRefunded, Reported, Settled},
    trace::Place,
};
use super::{
    commit_listener::CommitListener,
    ledger::Ledger,
    posting::{
        Adjusted, Adjustment, AlertsChange, Charge, Commit, Effect, Expire, Opening, OrderRefundRequest,
        OrderRefundUpdate, OrderUpdate, PaymentCredit, PlanChange, Posting, Refund, RefusedCall, Release, Report,
        Reserve, StatusChange,
    },
    refund::Refunded,
    transaction::Transaction,
};
use crate::biz::{
    account::catalog::Catalog,
    settlement::{order::Order, unapplied::UnappliedPayment},
    values::{
        calendar::Calendar,
        error::{Error, Result},
        ids::UserId,
    },
};

/// Accepts postings and answers with their committed outcome.
pub struct Engine {
    lanes: Vec<mpsc::Sender<Job>>,
    parking: Arc<Parking>,
    stop: CancellationToken,
    tasks: std::sync::Mutex<Vec<JoinHandle<()>>>,
}

impl Engine {
    /// Starts the lanes on the current runtime.
    pub fn start(
        ledger: Arc<dyn Ledger>,
        listener: Arc<dyn CommitListener>,
        catalog: Arc<Catalog>,
        calendar: Arc<Calendar>,
        limits: LaneLimits,
    ) -> Self {
        let settler = Settler { ledger, listener, catalog, calendar };
        let parking = Arc::new(Parking::new(settler.clone(), limits));
        let lane = Lane { settler, parking: parking.clone(), limits };
        let stop = CancellationToken::new();
        let (lanes, tasks) = (0..limits.lanes.max(1))
            .map(|_| {
                let (sender, jobs) = mpsc::channel(limits.queue.max(1));
                (sender, tokio::spawn(lane.clone().run(jobs, stop.clone())))
            })
            .unzip();
        Self { lanes, parking, stop, tasks: std::sync::Mutex::new(tasks) }
    }

    /// Opens the account of a user ahead of the first call. Returns whether it is new.
    ///
    /// # Errors
    /// [`Error::Overloaded`], [`Error::Internal`].
    pub async fn open(&self, opening: Opening) -> Result<bool> {
        self.post(Posting::Open(opening), Reply::Opened).await
    }

    /// Charges a call. The posting is in the queue when this returns, before the future is polled. An
    /// accepted posting is settled even if the caller goes away; a retry with the same trace id then
    /// finds the outcome. The effect says whether the call had been charged before.
    ///
    /// # Errors
    /// [`Error::InsufficientBalance`], [`Error::IdempotencyConflict`],
    /// [`Error::Overloaded`], [`Error::Internal`].
    pub fn charge(&self, charge: Charge) -> impl Future<Output = Settled> + Send + 'static {
        self.charge_at(charge, Place::begin())
    }

    /// As [`Self::charge`], at a place in the trace that the items of a batch share.
    ///
    /// # Errors
    /// As [`Self::charge`].
    pub fn charge_at(&self, charge: Charge, place: Option<Box<Place>>) -> impl Future<Output = Settled> + Send + use<> {
        self.post_at(Posting::Charge(charge), Reply::Settled, place)
    }

    /// Holds the expected cost of a call.
    ///
    /// # Errors
    /// As [`Self::charge`].
    pub fn reserve(&self, reserve: Reserve) -> impl Future<Output = Settled> + Send + 'static {
        self.post(Posting::Reserve(reserve), Reply::Settled)
    }

    /// Stores the usage that a stream has delivered so far, and increases its hold.
    ///
    /// # Errors
    /// [`Error::TransactionNotFound`]; [`Error::TransactionState`] if the reservation has ended or
    /// has another stream; [`Error::Overloaded`], [`Error::Internal`].
    pub fn report(&self, report: Report) -> impl Future<Output = Reported> + Send + 'static {
        self.post(Posting::Report(report), Reply::Reported)
    }

    /// Charges the delivered work of a reserved call.
    ///
    /// # Errors
    /// [`Error::TransactionNotFound`], [`Error::TransactionState`],
    /// [`Error::IdempotencyConflict`], [`Error::Invalid`] beyond the largest amounts,
    /// [`Error::Overloaded`], [`Error::Internal`].
    pub fn commit(&self, commit: Commit) -> impl Future<Output = Settled> + Send + 'static {
        self.post(Posting::Commit(commit), Reply::Settled)
    }

    /// Frees the hold of a reserved call that delivered nothing.
    ///
    /// # Errors
    /// [`Error::TransactionNotFound`], [`Error::TransactionState`],
    /// [`Error::Overloaded`], [`Error::Internal`].
    pub fn release(&self, release: Release) -> impl Future<Output = Settled> + Send + 'static {
        self.post(Posting::Release(release), Reply::Settled)
    }

    /// Ends a reservation without a commit or release. Returns the ended reservation; `None` if it
    /// had already ended.
    ///
    /// # Errors
    /// [`Error::Invalid`] beyond the largest amounts, [`Error::Overloaded`],
    /// [`Error::Internal`].
    pub fn expire(
        &self,
        expire: Expire,
    ) -> impl Future<Output = Result<Option<(Transaction, Effect)>>> + Send + 'static {
        self.post(Posting::Expire(expire), Reply::Ended)
    }

    /// Credits or debits a balance. The flag says whether this is a replay.
    ///
    /// # Errors
    /// [`Error::InsufficientBalance`], [`Error::IdempotencyConflict`],
    /// [`Error::Invalid`] beyond the largest balance, [`Error::Overloaded`],
    /// [`Error::Internal`].
    pub fn adjust(&self, adjustment: Adjustment) -> impl Future<Output = Result<(Adjusted, bool)>> + Send + 'static {
        self.post(Posting::Adjust(adjustment), Reply::Adjusted)
    }

    /// Gives a charge back, in whole or in part. The flag says whether this is a replay.
    ///
    /// # Errors
    /// [`Error::TransactionNotFound`]; [`Error::TransactionState`] if it is a reservation that is not
    /// committed; [`Error::Invalid`] for more than is left; [`Error::IdempotencyConflict`],
    /// [`Error::Overloaded`], [`Error::Internal`].
    pub fn refund(&self, refund: Refund) -> impl Future<Output = Result<(Refunded, bool)>> + Send + 'static {
        self.post(Posting::Refund(refund), Reply::Refunded)
    }

    /// Updates a top-up order, and credits it once it is paid. The posting is in the queue when this
    /// returns. The flag says whether anything changed.
    ///
    /// # Errors
    /// [`Error::OrderNotFound`], [`Error::AmountMismatch`], [`Error::DuplicateRecharge`],
    /// [`Error::Invalid`] beyond the largest balance, [`Error::Overloaded`],
    /// [`Error::Internal`].
    pub fn update_order(&self, update: OrderUpdate) -> impl Future<Output = Result<(Order, bool)>> + Send + 'static {
        self.post(Posting::UpdateOrder(update), Reply::OrderUpdated)
    }

    /// Begins a refund of a top-up: holds its amount. A repeat of its id gets the refund as it is now.
    ///
    /// # Errors
    /// [`Error::OrderNotFound`], [`Error::TransactionState`] if the order is not credited,
    /// [`Error::Invalid`] beyond the order, [`Error::InsufficientBalance`],
    /// [`Error::IdempotencyConflict`], [`Error::Overloaded`], [`Error::Internal`].
    pub fn refund_order(&self, request: OrderRefundRequest) -> impl Future<Output = OrderRefunded> + Send + 'static {
        self.post(Posting::RefundOrder(request), Reply::OrderRefunded)
    }

    /// Settles a refund of a top-up by an event of payment-service.
    ///
    /// # Errors
    /// [`Error::OrderNotFound`]; [`Error::AmountMismatch`] beyond the order;
    /// [`Error::DuplicateRecharge`] of a payment that did not credit the order;
    /// [`Error::IdempotencyConflict`]; [`Error::PaymentUnavailable`] if the report can't be settled yet;
    /// [`Error::Invalid`], [`Error::Overloaded`], [`Error::Internal`].
    pub fn update_order_refund(
        &self,
        update: OrderRefundUpdate,
    ) -> impl Future<Output = OrderRefunded> + Send + 'static {
        self.post(Posting::UpdateOrderRefund(update), Reply::OrderRefunded)
    }

    /// Credits an unapplied payment to a user. The flag says whether anything changed.
    ///
    /// # Errors
    /// [`Error::PaymentNotFound`]; [`Error::TransactionState`] if it was resolved in another way;
    /// [`Error::DuplicateRecharge`] if it has credited an order; [`Error::Invalid`] beyond the largest
    /// balance; [`Error::Overloaded`], [`Error::Internal`].
    pub fn credit_payment(
        &self,
        credit: PaymentCredit,
    ) -> impl Future<Output = Result<(UnappliedPayment, bool)>> + Send + 'static {
        self.post(Posting::CreditPayment(credit), Reply::PaymentCredited)
    }

    /// Sets the status of an account. Opens the account of a new user. Returns whether the status
    /// has changed. Charges that are queued after the answer see the status, on every server.
    ///
    /// # Errors
    /// [`Error::Overloaded`], [`Error::Internal`].
    pub fn set_status(&self, change: StatusChange) -> impl Future<Output = Result<bool>> + Send + 'static {
        self.post(Posting::SetStatus(change), Reply::StatusSet)
    }

    /// Sets the plan of a user. Opens the account of a new user. Returns whether the plan has changed.
    /// Calls that are queued after the answer have its prices, on every server.
    ///
    /// # Errors
    /// [`Error::Overloaded`], [`Error::Internal`].
    pub fn set_plan(&self, change: PlanChange) -> impl Future<Output = Result<bool>> + Send + 'static {
        self.post(Posting::SetPlan(change), Reply::PlanSet)
    }

    /// Sets the alerts of a user. Opens the account of a new user. Returns whether they have changed.
    ///
    /// # Errors
    /// [`Error::Overloaded`], [`Error::Internal`].
    pub fn set_alerts(&self, change: AlertsChange) -> impl Future<Output = Result<bool>> + Send + 'static {
        self.post(Posting::SetAlerts(change), Reply::AlertsSet)
    }

    /// Notes that a check was refused for money. Changes nothing if that is known, or if the account can pay
    /// the call now.
    ///
    /// # Errors
    /// [`Error::Overloaded`], [`Error::Internal`], and those of the price of the call.
    pub fn note_refusal(&self, refused: RefusedCall) -> impl Future<Output = Result<()>> + Send + 'static {
        self.post(Posting::NoteRefusal(refused), Reply::RefusalNoted)
    }

    /// Postings that wait in each lane.
    pub fn waiting(&self) -> Vec<usize> {
        self.lanes.iter().map(|lane| lane.max_capacity() - lane.capacity()).collect()
    }

    /// Accounts and postings that wait for locks, beside the lanes.
    pub fn parked(&self) -> ParkingSize {
        self.parking.size()
    }

    /// Cancelled when the engine stops accepting postings.
    pub fn closed(&self) -> &CancellationToken {
        &self.stop
    }

    /// Stops accepting postings, settles the accepted ones, and returns after the last answer.
    pub async fn drain(&self) {
        self.stop.cancel();
        let tasks = match self.tasks.lock() {
            Ok(mut tasks) => std::mem::take(&mut *tasks),
            Err(poisoned) => std::mem::take(&mut *poisoned.into_inner()),
        };
        for task in tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "settlement lane ended abnormally");
            }
        }
        self.parking.drain().await;
    }

    /// Queues the posting before it returns, so that postings keep the order of the calls.
    fn post<T: Send + 'static>(
        &self,
        posting: Posting,
        reply: fn(oneshot::Sender<Result<T>>) -> Reply,
    ) -> impl Future<Output = Result<T>> + Send + use<T> {
        self.post_at(posting, reply, Place::begin())
    }

    fn post_at<T: Send + 'static>(
        &self,
        posting: Posting,
        reply: fn(oneshot::Sender<Result<T>>) -> Reply,
        place: Option<Box<Place>>,
    ) -> impl Future<Output = Result<T>> + Send + use<T> {
        let lane = &self.lanes[lane_of(posting.user(), self.lanes.len())];
        let (sender, answer) = oneshot::channel();
        let now = Instant::now();
        let ticket = Ticket { queued: now, deadline: now, is_unsure: false, place, reply: reply(sender) };
        let job = Job { posting, ticket };
        let queued = lane.try_send(job).map_err(|refused| {
            Error::Overloaded(match refused {
                mpsc::error::TrySendError::Full(_) => "too many charges are waiting; retry later".into(),
                mpsc::error::TrySendError::Closed(_) => "the service is stopping; retry later".into(),
            })
        });
        async {
            queued?;
            let lost = || Error::Overloaded("the outcome is unknown; retry with the same id to learn it".into());
            answer.await.unwrap_or_else(|_| Err(lost()))
        }
    }
}

/// The lane of a user is always the same, so each account has one writer per process.
fn lane_of(user: &UserId, lanes: usize) -> usize {
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(user);
    (hash % lanes as u64) as usize
}

#[cfg(test)]
pub(super) mod tests;
