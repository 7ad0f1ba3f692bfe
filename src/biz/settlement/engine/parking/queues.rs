//! The queues of parked postings, one for each lock.
//!
//! An account is parked in one queue at a time with all of its postings, which keeps their order.
//! It stays parked until its last posting is answered.

use std::collections::{HashMap, VecDeque};

use tokio::time::Instant;
use tracing::Span;

use crate::biz::{
    settlement::{
        engine::job::{Job, ParkingLimits},
        lock::Lock,
    },
    values::ids::UserId,
};

pub(super) struct Queues {
    limits: ParkingLimits,
    /// Most postings of all accounts.
    max_postings: usize,
    waiting: HashMap<Lock, VecDeque<Job>>,
    accounts: HashMap<UserId, Parked>,
    /// Number of parked postings of all accounts, queued or in a transaction.
    postings: usize,
}

struct Parked {
    lock: Lock,
    /// Number of parked postings, queued or in a transaction.
    postings: usize,
}

/// The queue of a parked job.
pub(super) enum Entry {
    /// The queue has a task.
    Queued,
    /// The queue is new and needs a task.
    New(Lock),
}

impl Queues {
    pub fn new(limits: ParkingLimits, max_postings: usize) -> Self {
        Self { limits, max_postings, waiting: HashMap::new(), accounts: HashMap::new(), postings: 0 }
    }

    /// The number of parked accounts.
    pub fn accounts(&self) -> usize {
        self.accounts.len()
    }

    /// The number of parked postings of all accounts, queued or in a transaction.
    pub fn postings(&self) -> usize {
        self.postings
    }

    pub fn is_parked(&self, user: &UserId) -> bool {
        self.accounts.contains_key(user)
    }

    /// Parks a job in the queue of `lock`, or in the queue in which its account waits already.
    /// Returns the job if there is no room. `is_bounded`: whether the limit on accounts applies.
    #[expect(clippy::result_large_err, reason = "a refused job goes back to its caller; it is moved once")]
    pub fn park(&mut self, lock: Lock, job: Job, is_bounded: bool) -> Result<Entry, Job> {
        let user = job.posting.user();
        let has_room = match self.accounts.get(user) {
            Some(parked) => parked.postings < self.limits.postings,
            None => !is_bounded || self.accounts.len() < self.limits.accounts,
        };
        if !has_room || (is_bounded && self.postings >= self.max_postings) {
            return Err(job);
        }
        let parked = self.accounts.entry(user.clone()).or_insert(Parked { lock, postings: 0 });
        parked.postings += 1;
        self.postings += 1;
        let lock = parked.lock.clone();
        Ok(self.push(lock, [job]))
    }

    fn push(&mut self, lock: Lock, jobs: impl IntoIterator<Item = Job>) -> Entry {
        match self.waiting.get_mut(&lock) {
            Some(queue) => {
                queue.extend(jobs);
                Entry::Queued
            }
            None => {
                self.waiting.insert(lock.clone(), jobs.into_iter().collect());
                Entry::New(lock)
            }
        }
    }

    /// Moves an account to the queue of another lock: `jobs`, which a transaction could not settle,
    /// and the queued jobs behind them.
    pub fn relocate(&mut self, user: &UserId, lock: Lock, jobs: Vec<Job>) -> Entry {
        let mut moving = jobs;
        if let Some(parked) = self.accounts.get_mut(user) {
            let from = std::mem::replace(&mut parked.lock, lock.clone());
            moving.extend(self.extract(&from, |job| job.posting.user() == user));
        }
        self.push(lock, moving)
    }

    pub fn is_empty(&self, lock: &Lock) -> bool {
        self.waiting.get(lock).is_none_or(VecDeque::is_empty)
    }

    /// The span of a settlement behind a lock, for the first traced job that waits for it.
    pub fn settlement_span(&self, lock: &Lock) -> Span {
        let mut jobs = self.waiting.get(lock).into_iter().flatten();
        jobs.find_map(|job| job.ticket.place.as_ref()).map_or_else(Span::none, |place| place.settlement())
    }

    /// Takes the next jobs, at most `limit`. They stay parked until [`Self::finished`].
    pub fn take(&mut self, lock: &Lock, limit: usize) -> Vec<Job> {
        let Some(queue) = self.waiting.get_mut(lock) else { return Vec::new() };
        queue.drain(..queue.len().min(limit)).collect()
    }

    /// Returns jobs to the head of their queue.
    pub fn put_back(&mut self, lock: &Lock, jobs: Vec<Job>) {
        let queue = self.waiting.entry(lock.clone()).or_default();
        for job in jobs.into_iter().rev() {
            queue.push_front(job);
        }
    }

    /// Removes the queued jobs whose deadline has passed, and returns them.
    pub fn expired(&mut self, lock: &Lock, now: Instant) -> Vec<Job> {
        self.extract(lock, |job| job.ticket.deadline <= now)
    }

    /// Sets the deadline of an account's queued jobs to `now`.
    pub fn expire(&mut self, user: &UserId, now: Instant) {
        let queue = self.accounts.get(user).and_then(|parked| self.waiting.get_mut(&parked.lock));
        for job in queue.into_iter().flatten().filter(|job| job.posting.user() == user) {
            job.ticket.deadline = now;
        }
    }

    fn extract(&mut self, lock: &Lock, mut matches: impl FnMut(&Job) -> bool) -> Vec<Job> {
        let Some(queue) = self.waiting.get_mut(lock) else { return Vec::new() };
        let (out, kept): (Vec<_>, VecDeque<_>) = {
            let (mut out, mut kept) = (Vec::new(), VecDeque::with_capacity(queue.len()));
            for job in queue.drain(..) {
                if matches(&job) { out.push(job) } else { kept.push_back(job) }
            }
            (out, kept)
        };
        *queue = kept;
        out
    }

    /// Counts the answer to one posting of an account.
    pub fn finished(&mut self, user: &UserId) {
        if let Some(parked) = self.accounts.get_mut(user) {
            parked.postings -= 1;
            self.postings -= 1;
            if parked.postings == 0 {
                self.accounts.remove(user);
            }
        }
    }

    /// The first deadline in a queue. Removes an empty queue and returns `None`, which ends the
    /// task of the queue.
    pub fn first_deadline(&mut self, lock: &Lock) -> Option<Instant> {
        let first = self.waiting.get(lock)?.iter().map(|job| job.ticket.deadline).min();
        if first.is_none() {
            self.waiting.remove(lock);
        }
        first
    }
}
