//! Brings the rollup up to date for reads. What a request has no time for is summed behind it; and the
//! rollup of busy users before they read, at leisure.
//!
//! Its counts and its queue are hints in the memory of one process. A process that dies loses them, and
//! nothing else: every read looks for missing records itself.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use chrono::Days;
use tokio::{
    sync::{Mutex as Turn, Notify},
    time::{Instant, sleep, timeout},
};

use super::{
    UseStore,
    refresh::{Budget, WideSlices, is_foldable, missing_in, refresh},
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
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// Pause after a conflict with another server.
const AFTER_CONFLICT: Duration = Duration::from_millis(100);
/// A refresh without a read is followed by a rest of so many times its length, so that it takes a small part
/// of the database's time.
const REST: u32 = 3;
const LONGEST_REST: Duration = Duration::from_secs(60);
/// Longest turn of a user in the background, so that the others come to theirs. The next turn goes on.
const LONGEST_TURN: Duration = Duration::from_secs(8);
/// Longest refresh of a read, well within the deadline of a request.
const LONGEST_OF_READ: Duration = Duration::from_millis(300);
/// Time after which the work of a read that was aborted is done in the background.
const AFTER_READ: Duration = Duration::from_secs(2);

/// Refreshes rollups for reads, and in the background.
pub struct UseKeeper {
    store: Arc<dyn UseStore>,
    calendar: Arc<Calendar>,
    /// The changes of accounts in the running [`PAUSE`].
    changes: Mutex<HashMap<UserId, u32>>,
    waiting: Mutex<BTreeMap<UserId, Waiting>>,
    has_waiting: Notify,
    /// The user that is refreshed in the background.
    at_work: Mutex<Option<UserId>>,
    /// The reads that refresh. Those of one user do it one after the other, and the later ones find it done.
    turns: Mutex<HashMap<UserId, Weak<Turn<()>>>>,
    wide: WideSlices,
}

/// A user that waits for a refresh.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    span: DaySpan,
    since: Instant,
    /// The last attempt, or `since`.
    tried: Instant,
    /// A read refreshes the user until then.
    ready: Instant,
    /// Whether a read waits for it.
    is_read: bool,
}

impl UseKeeper {
    pub fn new(store: Arc<dyn UseStore>, calendar: Arc<Calendar>) -> Self {
        Self {
            store,
            calendar,
            changes: Mutex::default(),
            waiting: Mutex::default(),
            has_waiting: Notify::new(),
            at_work: Mutex::default(),
            turns: Mutex::default(),
            wide: WideSlices::default(),
        }
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
    /// background. Returns the number of records that are missing then. A failed write only leaves records
    /// missing: the background meets the failure again, and reports it.
    ///
    /// # Errors
    /// Those of the store on reading the numbers.
    pub async fn up_to_date(&self, user: &UserId, span: DaySpan) -> Result<u64> {
        let days = self.store.stale_days(user, span).await?;
        if missing_in(&days) == 0 {
            let today = self.calendar.now().day;
            if days.iter().any(|day| is_foldable(day, today)) {
                self.wait(user, span, false, Instant::now());
            }
            return Ok(0);
        }
        // First, so that an aborted request leaves its work to the background.
        self.wait(user, span, true, Instant::now() + AFTER_READ);
        if lock(&self.at_work).as_ref() != Some(user) {
            let turn = self.turn_of(user);
            let refreshing = async {
                let _turn = turn.lock().await;
                refresh(&*self.store, &self.calendar, user, span, Budget::OF_REQUEST, &self.wide).await
            };
            drop(timeout(LONGEST_OF_READ, refreshing).await);
        }
        let missing = missing_in(&self.store.stale_days(user, span).await?);
        if missing == 0 {
            self.done(user, span);
        } else {
            self.wait(user, span, true, Instant::now());
            self.has_waiting.notify_one();
        }
        Ok(missing)
    }

    fn turn_of(&self, user: &UserId) -> Arc<Turn<()>> {
        let mut turns = lock(&self.turns);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(user).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::new(Turn::new(()));
        turns.insert(user.clone(), Arc::downgrade(&turn));
        turn
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
                let pause = PAUSE.saturating_sub(looked.elapsed()).min(self.until_ready());
                drop(timeout(pause, self.has_waiting.notified()).await);
                continue;
            };
            let begun = Instant::now();
            let at_work = AtWork::on(&user, &self.at_work);
            let (span, budget) = (waiting.span, Budget::WITHOUT_END);
            let refreshing = refresh(&*self.store, &self.calendar, &user, span, budget, &self.wide);
            let done = timeout(LONGEST_TURN, refreshing).await;
            drop(at_work);
            match done {
                Ok(Ok(_)) => self.done(&user, span),
                // Another server does the same.
                Ok(Err(StoreError::Conflict(_))) => {
                    self.tried(&user);
                    sleep(AFTER_CONFLICT).await;
                }
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
            self.wait(user, span, false, Instant::now());
        }
    }

    fn wait(&self, user: &UserId, span: DaySpan, is_read: bool, ready: Instant) {
        let mut waiting = lock(&self.waiting);
        if let Some(known) = waiting.get_mut(user) {
            known.span = DaySpan { first: known.span.first.min(span.first), last: known.span.last.max(span.last) };
            known.is_read |= is_read;
            known.ready = known.ready.min(ready);
        } else if waiting.len() < MOST_WAITING {
            let since = Instant::now();
            waiting.insert(user.clone(), Waiting { span, since, tried: since, ready, is_read });
        }
    }

    /// The user without an attempt for the longest time, so that one that fails holds up nobody. Users that
    /// read come first.
    fn next(&self) -> Option<(UserId, Waiting)> {
        let (waiting, now) = (lock(&self.waiting), Instant::now());
        let ready = waiting.iter().filter(|(_, waiting)| waiting.ready <= now);
        let first = ready.min_by_key(|(_, waiting)| (!waiting.is_read, waiting.tried))?;
        Some((first.0.clone(), *first.1))
    }

    /// The time until a read that was aborted counts as such.
    fn until_ready(&self) -> Duration {
        let now = Instant::now();
        lock(&self.waiting).values().map(|waiting| waiting.ready.duration_since(now)).min().unwrap_or(PAUSE)
    }

    fn tried(&self, user: &UserId) {
        if let Some(waiting) = lock(&self.waiting).get_mut(user) {
            waiting.tried = Instant::now();
        }
    }

    /// Removes the user, unless a read of other days waits for it.
    fn done(&self, user: &UserId, done: DaySpan) {
        let mut waiting = lock(&self.waiting);
        if waiting.get(user).is_some_and(|waiting| done.first <= waiting.span.first && waiting.span.last <= done.last) {
            waiting.remove(user);
        }
    }
}

/// Shows the user that is refreshed in the background, until it is dropped.
struct AtWork<'a>(&'a Mutex<Option<UserId>>);

impl<'a> AtWork<'a> {
    fn on(user: &UserId, shown: &'a Mutex<Option<UserId>>) -> Self {
        *lock(shown) = Some(user.clone());
        Self(shown)
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        *lock(self.0) = None;
    }
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}
