//! What postings go to: the lanes, each of which settles what waits for its users.
//!
//! No timer gathers a batch. While one transaction is in flight the next batch
//! collects, so an idle service answers in one transaction's time and a busy one
//! shares locks, statements and the commit among all that wait.

mod lane;

use std::{
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use self::lane::Lane;
use super::{
    commit_listener::CommitListener,
    ledger::Ledger,
    posting::{
        Adjusted, Adjustment, Charge, Commit, Effect, Expire, OrderUpdate, Outcome, Posting, Release, Report, Reserve,
    },
    transaction::Transaction,
};
use crate::biz::{
    account::catalog::Catalog,
    recharge::order::Order,
    values::{
        calendar::Calendar,
        error::{Error, Result},
        ids::UserId,
    },
};

/// How much the engine takes on.
#[derive(Debug, Clone, Copy)]
pub struct LaneLimits {
    /// Lanes; each has at most one transaction in flight.
    pub lanes: usize,
    /// Postings that may wait in one lane before callers get OVERLOADED.
    pub queue: usize,
    /// Postings in one transaction at most.
    pub batch: usize,
    /// How long a posting may wait in its lane.
    pub max_wait: Duration,
    /// How long a batch is tried while the database does not answer.
    pub retry_timeout: Duration,
}

/// A transaction, and what the request did for it.
pub type Settled = Result<(Transaction, Effect)>;

/// A reservation that a stream has reported on, and whether its API key has no tokens left.
/// Where the hold ran out first, and nothing was kept, it is not PENDING.
pub type Reported = Result<(Transaction, bool)>;

/// Accepts postings and answers with their committed outcome.
pub struct Engine {
    lanes: Vec<mpsc::Sender<Job>>,
    stop: CancellationToken,
    tasks: std::sync::Mutex<Vec<JoinHandle<()>>>,
}

struct Job {
    posting: Posting,
    queued: Instant,
    reply: oneshot::Sender<Outcome>,
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
        let lane = Lane { ledger, listener, catalog, calendar, limits };
        let stop = CancellationToken::new();
        let (lanes, tasks) = (0..limits.lanes.max(1))
            .map(|_| {
                let (sender, jobs) = mpsc::channel(limits.queue.max(1));
                (sender, tokio::spawn(lane.clone().run(jobs, stop.clone())))
            })
            .unzip();
        Self { lanes, stop, tasks: std::sync::Mutex::new(tasks) }
    }

    /// Opens the account of a user ahead of the first call; tells whether it is new.
    ///
    /// # Errors
    /// [`Error::Overloaded`], [`Error::Internal`].
    pub async fn open(&self, user: UserId) -> Result<bool> {
        match self.post(Posting::Open(user)).await? {
            Outcome::Opened { created } => Ok(created),
            other => Err(unexpected(other)),
        }
    }

    /// Charges a call; it is queued when this returns. Once accepted it is settled
    /// even if the caller goes away; a retry with the same trace id then finds the
    /// outcome. Tells whether it had been charged before.
    ///
    /// # Errors
    /// [`Error::InsufficientBalance`], [`Error::IdempotencyConflict`],
    /// [`Error::Overloaded`], [`Error::Internal`].
    pub fn charge(&self, charge: Charge) -> impl Future<Output = Settled> + Send + 'static {
        self.settle(Posting::Charge(charge))
    }

    /// Holds what a call may take.
    ///
    /// # Errors
    /// As [`Self::charge`].
    pub fn reserve(&self, reserve: Reserve) -> impl Future<Output = Settled> + Send + 'static {
        self.settle(Posting::Reserve(reserve))
    }

    /// Keeps what a stream has delivered so far, and makes its hold grow.
    ///
    /// # Errors
    /// [`Error::TransactionNotFound`]; [`Error::TransactionState`] where the reservation has
    /// ended or another stream meters it; [`Error::Overloaded`], [`Error::Internal`].
    pub fn report(&self, report: Report) -> impl Future<Output = Reported> + Send + 'static {
        let outcome = self.post(Posting::Report(report));
        async {
            match outcome.await? {
                Outcome::Reported { transaction, is_exhausted } => Ok((transaction, is_exhausted)),
                other => Err(unexpected(other)),
            }
        }
    }

    /// Charges what a reserved call delivered.
    ///
    /// # Errors
    /// [`Error::TransactionNotFound`], [`Error::TransactionState`],
    /// [`Error::IdempotencyConflict`], [`Error::Invalid`] beyond the largest amounts,
    /// [`Error::Overloaded`], [`Error::Internal`].
    pub fn commit(&self, commit: Commit) -> impl Future<Output = Settled> + Send + 'static {
        self.settle(Posting::Commit(commit))
    }

    /// Frees the hold of a reserved call that delivered nothing.
    ///
    /// # Errors
    /// [`Error::TransactionNotFound`], [`Error::TransactionState`],
    /// [`Error::Overloaded`], [`Error::Internal`].
    pub fn release(&self, release: Release) -> impl Future<Output = Settled> + Send + 'static {
        self.settle(Posting::Release(release))
    }

    /// Ends a reservation that nobody ends; tells what became of it, and nothing where it
    /// held nothing any more.
    ///
    /// # Errors
    /// [`Error::Invalid`] beyond the largest amounts, [`Error::Overloaded`],
    /// [`Error::Internal`].
    pub fn expire(
        &self,
        expire: Expire,
    ) -> impl Future<Output = Result<Option<(Transaction, Effect)>>> + Send + 'static {
        let outcome = self.post(Posting::Expire(expire));
        async {
            match outcome.await? {
                Outcome::Ended { ended } => Ok(ended),
                other => Err(unexpected(other)),
            }
        }
    }

    fn settle(&self, posting: Posting) -> impl Future<Output = Settled> + Send + 'static {
        let outcome = self.post(posting);
        async {
            match outcome.await? {
                Outcome::Settled { transaction, effect } => Ok((transaction, effect)),
                other => Err(unexpected(other)),
            }
        }
    }

    /// Credits or debits a balance. Tells whether it had been done before.
    ///
    /// # Errors
    /// [`Error::InsufficientBalance`], [`Error::IdempotencyConflict`],
    /// [`Error::Invalid`] beyond the largest balance, [`Error::Overloaded`],
    /// [`Error::Internal`].
    pub fn adjust(&self, adjustment: Adjustment) -> impl Future<Output = Result<(Adjusted, bool)>> + Send + 'static {
        let outcome = self.post(Posting::Adjust(adjustment));
        async {
            match outcome.await? {
                Outcome::Adjusted { adjusted, replayed } => Ok((adjusted, replayed)),
                other => Err(unexpected(other)),
            }
        }
    }

    /// Moves a top-up order, and credits it once it is paid; queued when this returns.
    /// Tells whether anything changed.
    ///
    /// # Errors
    /// [`Error::OrderNotFound`], [`Error::AmountMismatch`], [`Error::DuplicateRecharge`],
    /// [`Error::Invalid`] beyond the largest balance, [`Error::Overloaded`],
    /// [`Error::Internal`].
    pub fn update_order(&self, update: OrderUpdate) -> impl Future<Output = Result<(Order, bool)>> + Send + 'static {
        let outcome = self.post(Posting::UpdateOrder(update));
        async {
            match outcome.await? {
                Outcome::OrderUpdated { order, changed } => Ok((order, changed)),
                other => Err(unexpected(other)),
            }
        }
    }

    /// Postings that wait in each lane.
    pub fn waiting(&self) -> Vec<usize> {
        self.lanes.iter().map(|lane| lane.max_capacity() - lane.capacity()).collect()
    }

    /// Cancelled when nothing more is accepted.
    pub fn closed(&self) -> &CancellationToken {
        &self.stop
    }

    /// Settles what was accepted, accepts nothing more, and returns when all is answered.
    pub async fn drain(&self) {
        self.stop.cancel();
        let tasks = match self.tasks.lock() {
            Ok(mut tasks) => std::mem::take(&mut *tasks),
            Err(poisoned) => std::mem::take(&mut *poisoned.into_inner()),
        };
        for task in tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a settlement lane ended abnormally");
            }
        }
    }

    /// Queues the posting before it returns, so that postings keep the order of the calls.
    fn post(&self, posting: Posting) -> impl Future<Output = Result<Outcome>> + Send + 'static {
        let lane = &self.lanes[lane_of(posting.user(), self.lanes.len())];
        let (reply, outcome) = oneshot::channel();
        let queued = lane.try_send(Job { posting, queued: Instant::now(), reply }).map_err(|refused| {
            Error::Overloaded(match refused {
                mpsc::error::TrySendError::Full(_) => "too many charges are waiting; retry later".into(),
                mpsc::error::TrySendError::Closed(_) => "the service is stopping; retry later".into(),
            })
        });
        async {
            queued?;
            outcome
                .await
                .map_err(|_| Error::Overloaded("the outcome is unknown; retry with the same id to learn it".into()))
        }
    }
}

/// A user always has the same lane, so that one account has one writer per process.
fn lane_of(user: &UserId, lanes: usize) -> usize {
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(user);
    (hash % lanes as u64) as usize
}

fn unexpected(outcome: Outcome) -> Error {
    match outcome {
        Outcome::Refused(refusal) => refusal,
        other => Error::Internal(format!("outcome of another kind: {other:?}")),
    }
}

#[cfg(test)]
mod tests;
