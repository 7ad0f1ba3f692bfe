//! Brings the rollup up to date for reads. What a request has no time for is summed behind it; and the
//! rollup of busy users before they read, at leisure.
//!
//! Its counts and its queue are hints in the memory of one process. A process that dies loses them, and
//! nothing else: every read looks for missing records itself.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::Days;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use super::{
    UseStore,
    refresh::{Budget, refresh},
};
use crate::biz::values::{
    calendar::{Calendar, DaySpan},
    error::{Result, StoreError},
    ids::UserId,
};

/// Settlements of an account in one [`PAUSE`] after which its rollup is refreshed without a read.
const BUSY: u32 = 500;
/// Most users whose settlements are counted in one [`PAUSE`].
const MOST_COUNTED: usize = 100_000;
/// Most users that wait for a refresh. Further ones wait for their next read.
const MOST_WAITING: usize = 10_000;
/// Time in which settlements are counted. A busy user is refreshed once in this time, because the newest
/// records are summed again each time.
const PAUSE: Duration = Duration::from_secs(600);
/// Pause after a failure.
const AFTER_FAILURE: Duration = Duration::from_secs(20);
/// A refresh without a read is followed by a rest of so many times its length, so that it takes a small part
/// of the database's time.
const REST: u32 = 3;
const LONGEST_REST: Duration = Duration::from_secs(60);
/// Longest refresh of a user. The next one goes on.
const LONGEST: Duration = Duration::from_secs(1_800);
/// Attempts of a read, each after another server has written the same part.
const ATTEMPTS: u32 = 3;

/// Refreshes rollups for reads, and in the background.
pub struct UseKeeper {
    store: Arc<dyn UseStore>,
    calendar: Arc<Calendar>,
    /// The changes of accounts in the running [`PAUSE`].
    changes: Mutex<HashMap<UserId, u32>>,
    waiting: Mutex<BTreeMap<UserId, Waiting>>,
    has_waiting: Notify,
}

/// A user that waits for a refresh.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    span: DaySpan,
    since: Instant,
    /// The last attempt, or `since`.
    tried: Instant,
    /// Whether a read waits for it.
    is_read: bool,
}

impl UseKeeper {
    pub fn new(store: Arc<dyn UseStore>, calendar: Arc<Calendar>) -> Self {
        Self { store, calendar, changes: Mutex::default(), waiting: Mutex::default(), has_waiting: Notify::new() }
    }

    /// Counts a change of an account. Returns at once.
    pub fn changed(&self, user: &UserId) {
        let mut changes = lock(&self.changes);
        if let Some(count) = changes.get_mut(user) {
            *count = count.saturating_add(1);
        } else if changes.len() < MOST_COUNTED {
            changes.insert(user.clone(), 1);
        }
    }

    /// Brings the days of `span` up to date as far as a request has time. What is left is done in the
    /// background. Returns the number of records that are missing.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn up_to_date(&self, user: &UserId, span: DaySpan) -> Result<u64> {
        let mut attempt = 1;
        let missing = loop {
            match refresh(&*self.store, &self.calendar, user, span, Budget::OF_REQUEST).await {
                Err(StoreError::Conflict(_)) if attempt < ATTEMPTS => attempt += 1,
                done => break done?,
            }
        };
        if missing > 0 {
            self.wait(user, span, true);
        }
        Ok(missing)
    }

    /// The time for which the first of the users has waited whose reads lack records; zero without one.
    pub fn longest_wait(&self) -> Duration {
        let waiting = lock(&self.waiting);
        let read = waiting.values().filter(|waiting| waiting.is_read);
        read.map(|waiting| waiting.since.elapsed()).max().unwrap_or_default()
    }

    /// Refreshes the waiting users, one at a time, until it is dropped. `on_failure` hears of each failure.
    pub async fn run(&self, on_failure: impl Fn(&StoreError)) {
        let mut looked = Instant::now();
        loop {
            if looked.elapsed() >= PAUSE {
                looked = Instant::now();
                self.queue_busy();
            }
            let Some((user, waiting)) = self.next() else {
                // A read that leaves work behind ends the pause.
                drop(timeout(PAUSE.saturating_sub(looked.elapsed()), self.has_waiting.notified()).await);
                continue;
            };
            let begun = Instant::now();
            let refreshing = refresh(&*self.store, &self.calendar, &user, waiting.span, Budget::WITHOUT_END);
            match timeout(LONGEST, refreshing).await {
                Ok(Ok(_)) => self.done(&user, &waiting),
                Ok(Err(error)) => {
                    on_failure(&error);
                    self.tried(&user);
                    sleep(AFTER_FAILURE).await;
                }
                // The parts that were written stay.
                Err(_) => self.tried(&user),
            }
            if !waiting.is_read {
                let rest = (begun.elapsed() * REST).min(LONGEST_REST);
                drop(timeout(rest, self.has_waiting.notified()).await);
            }
        }
    }

    fn queue_busy(&self) {
        let today = self.calendar.now().day;
        let span = DaySpan { first: today.checked_sub_days(Days::new(1)).unwrap_or(today), last: today };
        let counted = std::mem::take(&mut *lock(&self.changes));
        for (user, _) in counted.iter().filter(|(_, count)| **count >= BUSY) {
            self.wait(user, span, false);
        }
    }

    fn wait(&self, user: &UserId, span: DaySpan, is_read: bool) {
        let mut waiting = lock(&self.waiting);
        if let Some(known) = waiting.get_mut(user) {
            known.span = DaySpan { first: known.span.first.min(span.first), last: known.span.last.max(span.last) };
            known.is_read |= is_read;
        } else if waiting.len() < MOST_WAITING {
            let since = Instant::now();
            waiting.insert(user.clone(), Waiting { span, since, tried: since, is_read });
        }
        if is_read {
            self.has_waiting.notify_one();
        }
    }

    /// The user without an attempt for the longest time, so that one that fails holds up nobody. Users that
    /// read come first.
    fn next(&self) -> Option<(UserId, Waiting)> {
        let waiting = lock(&self.waiting);
        let first = waiting.iter().min_by_key(|(_, waiting)| (!waiting.is_read, waiting.tried))?;
        Some((first.0.clone(), *first.1))
    }

    fn tried(&self, user: &UserId) {
        if let Some(waiting) = lock(&self.waiting).get_mut(user) {
            waiting.tried = Instant::now();
        }
    }

    /// Removes the user, unless a read of other days came meanwhile.
    fn done(&self, user: &UserId, done: &Waiting) {
        let mut waiting = lock(&self.waiting);
        if waiting.get(user).is_some_and(|waiting| waiting.span == done.span) {
            waiting.remove(user);
        }
    }
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}
