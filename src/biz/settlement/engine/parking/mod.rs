//! The parking: accounts that a lane cannot settle at once, so that a lane never waits for a lock.
//!
//! If another transaction holds the rows or the API key of an account, the account is parked: its
//! postings, and all postings that follow, wait in the queue of that lock. Each queue has one task.
//! The task waits for the lock on a connection of its own, in the fair lock queue of the database.
//! Then it settles all postings that wait by then in one transaction: the wait makes the batch. After
//! the answer to its last posting, the account returns to its lane.
//!
//! Every transaction takes its locks in one order, accounts and then API keys, so no two wait for each
//! other. Only the transaction of a single account waits while it holds a lock: it holds its account,
//! and waits for its API keys, in key order, in one statement. The queue of an API key waits for the
//! key outside of a transaction, and then settles without waiting. The order is needed for skipped rows
//! too: MariaDB counts a row that is skipped as waited for when it looks for a deadlock.

mod quarantine;
mod queues;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use self::{
    quarantine::{Quarantine, Standing},
    queues::{Entry, Queues},
};
use crate::biz::settlement::engine::{
    job::{Job, LaneLimits, Ticket, places},
    settler::{Settler, given_up, pauses},
    trace,
};
use crate::biz::{
    settlement::{
        ledger::SettledBatch,
        lock::{Lock, Obstacle},
        posting::Batch,
    },
    values::{
        error::{Error, StoreError},
        ids::UserId,
        spans,
    },
};

/// Time limit of one turn: the wait for a lock, and the settlement after it. Databases end a wait
/// for a lock after two seconds, so only a silent database reaches this limit.
const TURN_TIMEOUT: Duration = Duration::from_secs(4);

pub(super) struct Parking {
    settler: Settler,
    /// Most postings in one transaction.
    batch: usize,
    /// One permit for each connection that may wait for a lock.
    connections: Semaphore,
    state: Mutex<State>,
    /// Number of parked and quarantined accounts. It is mostly zero, and lanes read it without the
    /// mutex.
    excluded: AtomicUsize,
    tasks: TaskTracker,
}

/// The size of the parking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParkingSize {
    pub accounts: usize,
    /// Postings of these accounts, queued or in a transaction.
    pub postings: usize,
}

struct State {
    queues: Queues,
    quarantine: Quarantine,
}

impl Parking {
    pub fn new(settler: Settler, limits: LaneLimits) -> Self {
        let parking = limits.parking;
        Self {
            settler,
            batch: limits.batch,
            connections: Semaphore::new(parking.connections.max(1)),
            state: Mutex::new(State {
                queues: Queues::new(parking, limits.queue),
                quarantine: Quarantine::new(parking.quarantine),
            }),
            excluded: AtomicUsize::new(0),
            tasks: TaskTracker::new(),
        }
    }

    pub fn size(&self) -> ParkingSize {
        let state = self.state();
        ParkingSize { accounts: state.queues.accounts(), postings: state.queues.postings() }
    }

    /// Returns the job if its lane may settle it. Otherwise parks the job, or refuses it if its
    /// account is quarantined.
    pub fn admit(self: &Arc<Self>, job: Job) -> Option<Job> {
        if self.excluded.load(Relaxed) == 0 {
            return Some(job);
        }
        let user = job.posting.user();
        let standing = {
            let state = self.state();
            match state.quarantine.standing(user, Instant::now()) {
                Standing::Good if state.queues.is_parked(user) => Standing::Suspect,
                standing => standing,
            }
        };
        match standing {
            Standing::Good => return Some(job),
            Standing::Suspect => self.park(Lock::Account(user.clone()), job, true),
            Standing::Quarantined => job.ticket.reply.refuse(given_up(false, QUARANTINED)),
        }
        None
    }

    /// Answers the callers of a settled batch, and parks the accounts that were left out. `from` is
    /// the queue of the batch; `None` for a batch of a lane.
    pub fn answer(self: &Arc<Self>, batch: &Batch, tickets: Vec<Ticket>, settled: SettledBatch, from: Option<&Lock>) {
        let mut outcomes = settled.outcomes.into_iter();
        let mut locked = BTreeMap::<UserId, (Lock, Vec<Job>)>::new();
        let mut again = Vec::new();
        for (posting, ticket) in batch.postings.iter().zip(tickets) {
            let user = posting.user();
            match settled.left_out.get(user) {
                None => {
                    // There is one outcome for each posting that is not left out.
                    if let Some(outcome) = outcomes.next() {
                        ticket.reply.send(outcome);
                    }
                    if from.is_some() {
                        self.finish(user, true);
                    }
                }
                Some(Obstacle::Unreadable(why)) => {
                    ticket.reply.refuse(Error::Internal(why.clone()));
                    self.quarantine(user, why);
                    if from.is_some() {
                        self.finish(user, false);
                    }
                }
                Some(Obstacle::Locked(lock)) if Some(lock) == from => {
                    again.push(Job { posting: posting.clone(), ticket });
                }
                Some(Obstacle::Locked(lock)) => {
                    let job = Job { posting: posting.clone(), ticket };
                    locked.entry(user.clone()).or_insert_with(|| (lock.clone(), Vec::new())).1.push(job);
                }
            }
        }
        for (user, (lock, jobs)) in locked {
            match from {
                None => jobs.into_iter().for_each(|job| self.park(lock.clone(), job, true)),
                // The account has already waited for one lock. It now waits for all its locks,
                // because two contended locks would send it back and forth.
                Some(_) => self.relocate(&user, jobs),
            }
        }
        // Another transaction got the lock first.
        if let Some(lock) = from {
            self.state().queues.put_back(lock, again);
        }
    }

    /// Parks each account of a failed batch, so that each is settled alone.
    pub fn isolate(self: &Arc<Self>, batch: &Batch, tickets: Vec<Ticket>) {
        for (posting, ticket) in batch.postings.iter().zip(tickets) {
            // The batch bounds the number of jobs.
            self.park(Lock::Account(posting.user().clone()), Job { posting: posting.clone(), ticket }, false);
        }
    }

    /// Refuses a posting that failed alone, and quarantines its account. If the outcome is unknown,
    /// the account only becomes suspect.
    pub async fn fail(&self, batch: &Batch, tickets: Vec<Ticket>, why: &str) {
        for (posting, ticket) in batch.postings.iter().zip(tickets) {
            if ticket.is_unsure {
                self.settler.outcome_unknown(batch).await;
                self.suspect(posting.user());
            } else {
                self.quarantine(posting.user(), why);
            }
            ticket.reply.refuse(Error::Internal(why.to_owned()));
        }
    }

    /// Returns after the answer to the last parked posting. The lanes have ended by then and park
    /// no more.
    pub async fn drain(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn park(self: &Arc<Self>, lock: Lock, mut job: Job, is_bounded: bool) {
        if let Some(place) = &mut job.ticket.place {
            place.wait_for_lock();
        }
        let parked = {
            let mut state = self.state();
            let parked = state.queues.park(lock, job, is_bounded);
            self.count(&state);
            parked
        };
        match parked {
            Ok(entry) => self.serve_new(entry),
            Err(job) => job.ticket.reply.refuse(given_up(job.ticket.is_unsure, FULL)),
        }
    }

    /// Moves an account to the queue of its own lock. There it waits for every lock that it needs.
    fn relocate(self: &Arc<Self>, user: &UserId, jobs: Vec<Job>) {
        let entry = self.state().queues.relocate(user, Lock::Account(user.clone()), jobs);
        self.serve_new(entry);
    }

    fn serve_new(self: &Arc<Self>, entry: Entry) {
        if let Entry::New(lock) = entry {
            self.tasks.spawn(self.clone().serve(lock));
        }
    }

    /// Settles the postings in the queue of a lock, until the queue is empty.
    async fn serve(self: Arc<Self>, lock: Lock) {
        let (mut pauses, mut alone) = (pauses(), 0_usize);
        loop {
            let Some(deadline) = self.first_deadline(&lock) else { return };
            let permit = timeout_at(deadline, self.connections.acquire()).await;
            let expired = self.state().queues.expired(&lock, Instant::now());
            self.give_up(expired).await;
            let Ok(Ok(permit)) = permit else { continue };
            let limit = if alone > 0 { 1 } else { self.batch };
            alone = alone.saturating_sub(1);
            let is_empty = self.state().queues.is_empty(&lock);
            let turn = if is_empty { Turn::Settled } else { self.settle(&lock, limit).await };
            // The connection goes to the next queue, even if this lock was not granted.
            drop(permit);
            match turn {
                Turn::Settled => pauses = super::settler::pauses(),
                Turn::Again => tokio::time::sleep(pauses.next().unwrap_or_default()).await,
                Turn::OneByOne(count) => alone = count,
            }
        }
    }

    /// Waits for a lock, and settles once the jobs that are in its queue by then, at most `limit`.
    /// Unsettled jobs return to the queue.
    async fn settle(self: &Arc<Self>, lock: &Lock, limit: usize) -> Turn {
        let deadline = Instant::now() + TURN_TIMEOUT;
        let taken = Arc::<Mutex<Option<(Arc<Batch>, Vec<Ticket>)>>>::default();
        let gather = {
            let (parking, lock, taken) = (self.clone(), lock.clone(), taken.clone());
            move || {
                let (batch, tickets) = parking.take(&lock, limit);
                *taken.lock().unwrap_or_else(PoisonError::into_inner) = Some((batch.clone(), tickets));
                batch
            }
        };
        let mut is_unsure = false;
        let span = self.state().queues.settlement_span(lock);
        let attempt = self.settler.try_behind(lock, Box::new(gather), deadline, &mut is_unsure);
        let settled = spans::traced(span.clone(), attempt).await;
        let taken = taken.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (batch, mut tickets) = match (taken, &settled) {
            (Some(taken), _) => taken,
            // It would fail again with any jobs.
            (None, Err(StoreError::Failed(_))) => self.take(lock, limit),
            (None, _) => {
                // Nothing was sent beside the wait for the lock.
                tracing::debug!(?lock, "lock not granted");
                tracing::warn!(error = ?settled.err(), lock = lock.kind(), "lock not granted; waiting for it again");
                return Turn::Again;
            }
        };
        trace::join(&span, &mut places(&mut tickets), batch.postings.len());
        is_unsure |= tickets.iter().any(|ticket| ticket.is_unsure);
        let settled = match settled {
            Ok(settled) => {
                // The update of the cache lies below the settlement.
                self.settler.announce(&batch, settled, &mut is_unsure).instrument(span.clone()).await
            }
            Err(error) => Err(error),
        };
        tickets.iter_mut().for_each(|ticket| ticket.is_unsure |= is_unsure);
        match (settled, lock) {
            (Ok(settled), _) => {
                let is_again = settled.outcomes.is_empty();
                self.answer(&batch, tickets, settled, Some(lock));
                if is_again { Turn::Again } else { Turn::Settled }
            }
            (Err(StoreError::Failed(why)), _) if tickets.len() == 1 => {
                self.fail(&batch, tickets, &why).await;
                batch.postings.iter().for_each(|posting| self.finish(posting.user(), false));
                Turn::Settled
            }
            (Err(StoreError::Failed(why)), Lock::Account(_)) => {
                tracing::error!(why, batch = tickets.len(), "account failed; settling its postings one by one");
                let count = tickets.len();
                self.state().queues.put_back(lock, jobs_of(&batch, tickets));
                Turn::OneByOne(count)
            }
            (Err(StoreError::Failed(why)), Lock::ApiKey(_)) => {
                tracing::error!(why, batch = tickets.len(), "batch failed; settling its accounts one by one");
                let mut accounts: BTreeMap<UserId, Vec<Job>> = BTreeMap::new();
                for job in jobs_of(&batch, tickets) {
                    accounts.entry(job.posting.user().clone()).or_default().push(job);
                }
                accounts.into_iter().for_each(|(user, jobs)| self.relocate(&user, jobs));
                Turn::Settled
            }
            (Err(error @ (StoreError::Conflict(_) | StoreError::Unavailable(_))), _) => {
                tracing::debug!(?lock, "lock not granted");
                tracing::warn!(%error, lock = lock.kind(), batch = tickets.len(), "lock not granted; waiting for it again");
                self.state().queues.put_back(lock, jobs_of(&batch, tickets));
                Turn::Again
            }
        }
    }

    /// Takes the next jobs from a queue, as a batch and its tickets.
    fn take(&self, lock: &Lock, limit: usize) -> (Arc<Batch>, Vec<Ticket>) {
        let jobs = self.state().queues.take(lock, limit);
        let (postings, tickets) = jobs.into_iter().map(|job| (job.posting, job.ticket)).unzip();
        (self.settler.batch(postings), tickets)
    }

    /// Refuses jobs whose deadline has passed.
    async fn give_up(&self, jobs: Vec<Job>) {
        for Job { posting, ticket } in jobs {
            let user = posting.user().clone();
            if ticket.is_unsure {
                self.settler.outcome_unknown(&self.settler.batch(vec![posting])).await;
            }
            let is_quarantined = self.state().quarantine.standing(&user, Instant::now()) == Standing::Quarantined;
            let why = if is_quarantined { QUARANTINED } else { LOCKED };
            ticket.reply.refuse(given_up(ticket.is_unsure, why));
            self.suspect(&user);
            self.finish(&user, false);
        }
    }

    /// Quarantines an account that the database cannot settle. Its queued postings expire at once.
    fn quarantine(&self, user: &UserId, why: &str) {
        let (mut state, now) = (self.state(), Instant::now());
        if state.quarantine.begin(user, now) {
            tracing::error!(
                why,
                "account quarantined: the database cannot read or write one of its rows; \
                 `cron --once audit --full` names unreadable rows"
            );
            tracing::debug!(%user, "account quarantined");
        }
        state.queues.expire(user, now);
        self.count(&state);
    }

    fn suspect(&self, user: &UserId) {
        let mut state = self.state();
        state.quarantine.suspect(user, Instant::now());
        self.count(&state);
    }

    /// Counts the answer to one posting of a parked account.
    fn finish(&self, user: &UserId, is_settled: bool) {
        let mut state = self.state();
        state.queues.finished(user);
        if is_settled {
            state.quarantine.end(user);
        }
        self.count(&state);
    }

    fn first_deadline(&self, lock: &Lock) -> Option<Instant> {
        self.state().queues.first_deadline(lock)
    }

    fn count(&self, state: &State) {
        self.excluded.store(state.queues.accounts() + state.quarantine.accounts(), Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The result of one turn at a lock.
enum Turn {
    /// Every job is answered, or waits for another lock.
    Settled,
    /// The jobs are back in the queue.
    Again,
    /// This many jobs are back in the queue. Each of them is settled alone.
    OneByOne(usize),
}

const FULL: &str = "the account is locked by another transaction and too many calls wait for it";
const LOCKED: &str = "the account was locked by another transaction for too long";
const QUARANTINED: &str = "the account is quarantined because the database cannot settle it";

fn jobs_of(batch: &Batch, tickets: Vec<Ticket>) -> Vec<Job> {
    let postings = batch.postings.iter().cloned();
    postings.zip(tickets).map(|(posting, ticket)| Job { posting, ticket }).collect()
}
