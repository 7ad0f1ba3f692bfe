//! The lanes: each settles what waits for its users, one batch after another.
//!
//! No timer gathers a batch. While one transaction is in flight the next batch
//! collects, so an idle service answers in one transaction's time and a busy one
//! shares locks, statements and the commit among all that wait.

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

use super::{
    keys::Keys,
    ledger::{Ledger, Settlement},
    posting::{Adjusted, Adjustment, Batch, Charge, Commit, Expire, OrderUpdate, Outcome, Posting, Release, Reserve},
    readers::Readers,
    transaction::Transaction,
};
use crate::biz::{
    calendar::Calendar,
    catalog::Catalog,
    error::{Error, Result, StoreError},
    ids::{ApiKeyId, UserId},
    read_model::entry::Subject,
    recharge::order::Order,
};

/// How much the engine takes on.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Lanes; each has at most one transaction in flight.
    pub lanes: usize,
    /// Postings that may wait in one lane before callers get OVERLOADED.
    pub queue: usize,
    /// Postings in one transaction at most.
    pub batch: usize,
    /// How long a posting may wait in its lane.
    pub max_wait: Duration,
    /// How long a batch is tried while the database does not answer.
    pub patience: Duration,
}

/// A transaction, and whether it stood already before the request.
pub type Settled = Result<(Transaction, bool)>;

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
        readers: Arc<dyn Readers>,
        catalog: Arc<Catalog>,
        calendar: Arc<Calendar>,
        limits: Limits,
    ) -> Self {
        let lane = Lane { ledger, readers, catalog, calendar, limits };
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

    /// Frees the hold of a reservation past its expiry; tells whether it had one.
    ///
    /// # Errors
    /// [`Error::Overloaded`], [`Error::Internal`].
    pub fn expire(&self, expire: Expire) -> impl Future<Output = Result<bool>> + Send + 'static {
        let outcome = self.post(Posting::Expire(expire));
        async {
            match outcome.await? {
                Outcome::Swept { freed } => Ok(freed),
                other => Err(unexpected(other)),
            }
        }
    }

    fn settle(&self, posting: Posting) -> impl Future<Output = Settled> + Send + 'static {
        let outcome = self.post(posting);
        async {
            match outcome.await? {
                Outcome::Settled { transaction, replayed } => Ok((transaction, replayed)),
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

#[derive(Clone)]
struct Lane {
    ledger: Arc<dyn Ledger>,
    readers: Arc<dyn Readers>,
    catalog: Arc<Catalog>,
    calendar: Arc<Calendar>,
    limits: Limits,
}

impl Lane {
    async fn run(self, mut jobs: mpsc::Receiver<Job>, stop: CancellationToken) {
        let mut waiting = Vec::new();
        loop {
            let taken = tokio::select! {
                taken = jobs.recv_many(&mut waiting, self.limits.batch) => taken,
                () = stop.cancelled(), if !jobs.is_closed() => {
                    jobs.close();
                    continue;
                }
            };
            if taken == 0 {
                return;
            }
            let (mut postings, mut replies) = (Vec::with_capacity(taken), Vec::with_capacity(taken));
            for job in waiting.drain(..) {
                // What waited too long is refused untried: under too much load the wait of
                // the others stays bounded, and after an outage nothing is made that its
                // caller has long given up.
                if job.queued.elapsed() >= self.limits.max_wait {
                    let _ = job.reply.send(Outcome::Refused(Error::Overloaded(
                        "waited too long and was not made; retry later".into(),
                    )));
                } else {
                    postings.push(job.posting);
                    replies.push(job.reply);
                }
            }
            if postings.is_empty() {
                continue;
            }
            let outcomes = self.settle(postings).await;
            for (reply, outcome) in replies.into_iter().zip(outcomes) {
                // A caller that went away needs no answer.
                let _ = reply.send(outcome);
            }
        }
    }

    /// An outcome for every posting, whatever happens to the batch, and within the
    /// lane's patience.
    async fn settle(&self, postings: Vec<Posting>) -> Vec<Outcome> {
        let deadline = Instant::now() + self.limits.patience;
        let batch = Arc::new(Batch { postings, at: self.calendar.now(), catalog: self.catalog.clone() });
        match self.attempt(&batch, deadline).await {
            Ok(outcomes) => outcomes,
            Err(error @ (StoreError::Failed(_) | StoreError::Conflict(_))) if batch.postings.len() > 1 => {
                // One posting that the database cannot take must not fail the others.
                tracing::error!(%error, batch = batch.postings.len(), "a batch failed; settling its postings one by one");
                self.settle_one_by_one(&batch, deadline).await
            }
            Err(error) => batch.postings.iter().map(|_| Outcome::Refused(given_up(error.clone()))).collect(),
        }
    }

    /// As [`Self::settle`]; an outage stands for all postings behind it. One that only
    /// takes long, as behind a lock that another process does not let go, has a time of
    /// its own.
    async fn settle_one_by_one(&self, batch: &Batch, deadline: Instant) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(batch.postings.len());
        let mut outage = None;
        for posting in &batch.postings {
            let alone = Batch { postings: vec![posting.clone()], at: batch.at, catalog: batch.catalog.clone() };
            let limit = deadline.min(Instant::now() + SINGLE_PATIENCE);
            let settled = match &outage {
                Some(error) => Err(StoreError::clone(error)),
                None => self.attempt(&Arc::new(alone), limit).await,
            };
            match settled {
                Ok(outcome) => outcomes.extend(outcome),
                Err(error) => {
                    let in_time = Instant::now() < limit;
                    if Instant::now() >= deadline || (in_time && matches!(error, StoreError::Unavailable(_))) {
                        outage = Some(error.clone());
                    }
                    outcomes.push(Outcome::Refused(given_up(error)));
                }
            }
        }
        outcomes
    }

    /// Settles a batch, again and again while that is safe and may help. It is safe
    /// because ids already committed are found and not charged twice.
    async fn attempt(&self, batch: &Arc<Batch>, deadline: Instant) -> std::result::Result<Vec<Outcome>, StoreError> {
        let (mut pause, mut conflicts, started) = (FIRST_PAUSE, 0, Instant::now());
        // Whether an attempt may have committed and nobody knows what.
        let mut is_unsure = false;
        loop {
            let error = match self.try_once(batch, deadline).await {
                Ok(settlement) if settlement.outcomes.len() == batch.postings.len() => {
                    return Ok(self.publish(batch, settlement, is_unsure).await);
                }
                Ok(_) => StoreError::Failed("the number of outcomes is wrong".into()),
                Err(error) => error,
            };
            is_unsure |= !matches!(error, StoreError::Conflict(_));
            conflicts += u32::from(matches!(error, StoreError::Conflict(_)));
            let is_stuck = conflicts > MAX_CONFLICTS || (conflicts > 0 && started.elapsed() > LONG_CONFLICT);
            let is_final = matches!(error, StoreError::Failed(_)) || is_stuck;
            if is_final || Instant::now() + pause >= deadline {
                if is_unsure {
                    self.readers.doubted(subjects(batch, Vec::new())).await;
                }
                return Err(error);
            }
            tracing::warn!(%error, batch = batch.postings.len(), "settling a batch again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Tells those who read what the batch changed.
    async fn publish(&self, batch: &Batch, settlement: Settlement, is_unsure: bool) -> Vec<Outcome> {
        if is_unsure {
            self.readers.missed(subjects(batch, settlement.api_keys)).await;
        } else if !settlement.changes.is_empty() {
            self.readers.committed(settlement.changes).await;
        }
        settlement.outcomes
    }

    /// In a task of its own: a panic below costs one batch and not the lane, and a
    /// database that has gone silent is given up at the deadline, outcome unknown.
    async fn try_once(&self, batch: &Arc<Batch>, deadline: Instant) -> std::result::Result<Settlement, StoreError> {
        let (ledger, batch) = (self.ledger.clone(), batch.clone());
        let mut task = tokio::spawn(async move { ledger.settle(&batch).await });
        match tokio::time::timeout_at(deadline, &mut task).await {
            Ok(Ok(settled)) => settled,
            Ok(Err(panic)) => Err(StoreError::Failed(format!("settling panicked: {panic}"))),
            Err(_) => {
                task.abort();
                Err(StoreError::Unavailable("no answer in time".into()))
            }
        }
    }
}

/// Everything that a batch may change, with the API keys of the reservations that it ends.
fn subjects(batch: &Batch, api_keys: Vec<ApiKeyId>) -> Vec<Subject> {
    let keys = Keys::of(batch);
    let users = keys.users.into_iter().cloned().map(Subject::User);
    let named = keys.api_keys.into_iter().cloned();
    users.chain(named.chain(api_keys).map(Subject::ApiKey)).collect()
}

/// Conflicts after which a batch is not tried again as a whole: they pass, or one of its
/// postings will never pass.
const MAX_CONFLICTS: u32 = 8;
/// Nor after conflicts that took as long together.
const LONG_CONFLICT: Duration = Duration::from_secs(1);
/// How long a posting is tried that is settled alone because its batch was stuck.
const SINGLE_PATIENCE: Duration = Duration::from_secs(1);
/// Between two attempts at a batch, doubling from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

fn given_up(error: StoreError) -> Error {
    match error {
        StoreError::Failed(why) => Error::Internal(why),
        StoreError::Conflict(_) | StoreError::Unavailable(_) => {
            tracing::error!(%error, "gave up on a batch");
            Error::Overloaded(
                "the database does not answer and the outcome is unknown; retry with the same id to learn it".into(),
            )
        }
    }
}

#[cfg(test)]
mod tests;
