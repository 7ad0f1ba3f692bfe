//! The parked postings: a queue for each lock that is waited for.
//!
//! An account is parked in one queue at a time, with all of its postings, so that their order
//! is kept. It counts as parked until the last of them is answered.

use std::collections::{HashMap, VecDeque};

use tokio::time::Instant;

use crate::biz::{
    settlement::{
        engine::job::{Job, ParkingLimits},
        lock::Lock,
    },
    values::ids::UserId,
};

pub(super) struct Queues {
    limits: ParkingLimits,
    /// Postings of all accounts at most.
    max_postings: usize,
    waiting: HashMap<Lock, VecDeque<Job>>,
    accounts: HashMap<UserId, Parked>,
    /// Waiting or in a transaction, of all accounts.
    postings: usize,
}

struct Parked {
    lock: Lock,
    /// Waiting or in a transaction.
    postings: usize,
}

/// Where a job went.
pub(super) enum Entry {
    /// Into a queue that something serves.
    Queued,
    /// Into a queue that nothing serves yet.
    New(Lock),
}

impl Queues {
    pub fn new(limits: ParkingLimits, max_postings: usize) -> Self {
        Self { limits, max_postings, waiting: HashMap::new(), accounts: HashMap::new(), postings: 0 }
    }

    /// How many accounts are parked.
    pub fn accounts(&self) -> usize {
        self.accounts.len()
    }

    pub fn is_parked(&self, user: &UserId) -> bool {
        self.accounts.contains_key(user)
    }

    /// Parks a job behind `lock`, or behind the lock that its account waits for already; gives
    /// it back where there is no room. `is_bounded`: whether the number of accounts counts.
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

    /// Lets an account wait for another lock: with these jobs, which a transaction could not
    /// settle, and with those that are still queued behind them.
    pub fn relocate(&mut self, user: &UserId, lock: Lock, jobs: Vec<Job>) -> Entry {
        let mut moving = jobs;
        if let Some(parked) = self.accounts.get_mut(user) {
            let from = std::mem::replace(&mut parked.lock, lock.clone());
            moving.extend(self.extract(&from, |job| job.posting.user() == user));
        }
        self.push(lock, moving)
    }

    /// Takes the jobs that are next, at most `limit`; they stay parked until [`Self::finished`].
    pub fn take(&mut self, lock: &Lock, limit: usize) -> Vec<Job> {
        let Some(queue) = self.waiting.get_mut(lock) else { return Vec::new() };
        queue.drain(..queue.len().min(limit)).collect()
    }

    /// Puts jobs back that were taken.
    pub fn put_back(&mut self, lock: &Lock, jobs: Vec<Job>) {
        let queue = self.waiting.entry(lock.clone()).or_default();
        for job in jobs.into_iter().rev() {
            queue.push_front(job);
        }
    }

    /// Takes out the queued jobs whose deadline has passed.
    pub fn expired(&mut self, lock: &Lock, now: Instant) -> Vec<Job> {
        self.extract(lock, |job| job.ticket.deadline <= now)
    }

    /// Lets the queued jobs of an account wait no longer.
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

    /// One posting of an account is answered.
    pub fn finished(&mut self, user: &UserId) {
        if let Some(parked) = self.accounts.get_mut(user) {
            parked.postings -= 1;
            self.postings -= 1;
            if parked.postings == 0 {
                self.accounts.remove(user);
            }
        }
    }

    /// The first deadline in a queue. An empty queue ends with this call, and `None` tells
    /// its task to end.
    pub fn first_deadline(&mut self, lock: &Lock) -> Option<Instant> {
        let first = self.waiting.get(lock)?.iter().map(|job| job.ticket.deadline).min();
        if first.is_none() {
            self.waiting.remove(lock);
        }
        first
    }
}
