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
    UseDay, UseStore,
    budget::Budget,
    missing_in,
    parts::is_mergeable,
    refresh::{End, Refreshed, Walks, refresh},
};
use crate::biz::values::{
    calendar::{Calendar, DaySpan},
    error::{Result, StoreError},
    ids::UserId,
    invalid::Invalid,
};

/// Most rows that a reply sums up, in about a second. The database goes on with a longer statement after its
/// request has ended.
const MOST_READ: u64 = 100_000;

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
/// Longest turn of a user in the background, so that the others come to theirs. It ends between two parts,
/// and the next turn goes on.
const LONGEST_TURN: Duration = Duration::from_secs(8);
/// Time after which a turn has failed that comes to no end of a part.
const LONGEST_PART: Duration = Duration::from_secs(12);
/// First and longest pause of a user whose records are not found. The pauses double.
const AFTER_LACK: Duration = Duration::from_secs(5);
const LONGEST_AFTER_LACK: Duration = Duration::from_secs(60);
/// Most spans of days of a user that wait. Further ones make one span of all.
const MOST_SPANS: usize = 8;
/// Longest refresh of a read, well within the deadline of a request.
pub const LONGEST_OF_READ: Duration = Duration::from_millis(300);
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
    walks: Walks,
}

/// A user that waits for a refresh.
#[derive(Debug, Clone)]
struct Waiting {
    spans: Vec<DaySpan>,
    since: Instant,
    /// The last attempt, or `since`.
    tried: Instant,
    /// The time of the next attempt. Until then a read refreshes the user, or a pause lasts.
    ready: Instant,
    /// Whether a read waits for it.
    is_read: bool,
    /// Attempts, one after the other, that did not find the missing records.
    lacks: u32,
}

impl Waiting {
    /// The time of its next turn, with a rest until `rested` from those that nobody reads.
    fn begins(&self, rested: Instant) -> Instant {
        if self.is_read { self.ready } else { self.ready.max(rested) }
    }
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
            walks: Walks::default(),
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
    /// [`Error::Invalid`](crate::biz::values::error::Error::Invalid): the days have too many rows for a reply.
    /// Those of the store on reading the numbers.
    pub async fn up_to_date(&self, user: &UserId, span: DaySpan) -> Result<u64> {
        self.up_to_date_within(user, span, LONGEST_OF_READ).await
    }

    /// As [`Self::up_to_date`], for a reader with less time: the refresh ends after `longest`, or is left out.
    ///
    /// # Errors
    /// As [`Self::up_to_date`].
    pub async fn up_to_date_within(&self, user: &UserId, span: DaySpan, longest: Duration) -> Result<u64> {
        let days = self.store.days(user, span).await?;
        check_rows(&days)?;
        if days.iter().all(UseDay::is_equal) {
            self.done(user, &[span]);
            if days.iter().any(|day| is_mergeable(day, &self.calendar)) {
                self.wait(user, span, false, Instant::now());
            }
            return Ok(0);
        }
        // First, so that an aborted request leaves its work to the background.
        self.wait(user, span, true, Instant::now() + AFTER_READ);
        self.has_waiting.notify_one();
        if !longest.is_zero() && lock(&self.at_work).as_ref() != Some(user) {
            let turn = self.turn_of(user);
            let refreshing = async {
                let _turn = turn.lock().await;
                refresh(&*self.store, &self.calendar, user, span, Budget::OF_REQUEST, &self.walks).await
            };
            drop(timeout(longest.min(LONGEST_OF_READ), refreshing).await);
        }
        let days = self.store.days(user, span).await?;
        let missing = missing_in(&days);
        if missing == 0 {
            self.done(user, &[span]);
        } else {
            self.wait(user, span, true, Instant::now());
            self.has_waiting.notify_one();
        }
        check_rows(&days)?;
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
        let mut rested = looked;
        loop {
            if looked.elapsed() >= PAUSE {
                looked = Instant::now();
                self.queue_busy();
            }
            let Some((user, waiting)) = self.next(rested) else {
                // A read that leaves work behind ends the pause.
                let pause = PAUSE.saturating_sub(looked.elapsed()).min(self.until_next(rested));
                drop(timeout(pause, self.has_waiting.notified()).await);
                continue;
            };
            let begun = Instant::now();
            let at_work = AtWork::on(&user, &self.at_work);
            let turn = self.refresh_all(&user, &waiting.spans, Budget::until(begun + LONGEST_TURN));
            let turn = timeout(LONGEST_TURN + LONGEST_PART, turn).await;
            drop(at_work);
            match turn.unwrap_or_else(|_| Err(StoreError::Unavailable("a part was not summed in time".into()))) {
                Ok(Refreshed { end: End::Done, .. }) => self.done(&user, &waiting.spans),
                Ok(Refreshed { end: End::Lacking, missing, .. }) => {
                    tracing::debug!(%user, "records missing");
                    tracing::warn!(
                        missing,
                        "use by model and API key not summed; the daily rollup counts records that are not found"
                    );
                    self.lacks(&user);
                }
                // The parts that were written stay.
                Ok(Refreshed { end: End::Early, changes, conflicts, .. }) => {
                    self.tried(&user);
                    if conflicts > 0 {
                        // Another server does the same.
                        sleep(AFTER_CONFLICT).await;
                    } else if changes == 0 {
                        tracing::debug!(%user, "no record to sum");
                        tracing::warn!("use by model and API key not summed; a turn found no record to sum");
                    }
                }
                Err(error) => {
                    on_failure(&error);
                    self.tried(&user);
                    sleep(AFTER_FAILURE).await;
                }
            }
            if !waiting.is_read {
                rested = Instant::now() + (begun.elapsed() * REST).min(LONGEST_REST);
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

    async fn refresh_all(
        &self,
        user: &UserId,
        spans: &[DaySpan],
        budget: Budget,
    ) -> std::result::Result<Refreshed, StoreError> {
        let mut all = Refreshed::NOTHING;
        for span in spans {
            let one = refresh(&*self.store, &self.calendar, user, *span, budget, &self.walks).await?;
            all = Refreshed {
                end: all.end.max(one.end),
                missing: all.missing.saturating_add(one.missing),
                changes: all.changes + one.changes,
                conflicts: all.conflicts + one.conflicts,
            };
        }
        Ok(all)
    }

    fn wait(&self, user: &UserId, span: DaySpan, is_read: bool, ready: Instant) {
        let mut waiting = lock(&self.waiting);
        if let Some(known) = waiting.get_mut(user) {
            add(&mut known.spans, span);
            known.is_read |= is_read;
            // A read does not shorten the pause of a user whose records are not found.
            if known.lacks == 0 {
                known.ready = known.ready.min(ready);
            }
        } else if waiting.len() < MOST_WAITING {
            let since = Instant::now();
            waiting.insert(user.clone(), Waiting { spans: vec![span], since, tried: since, ready, is_read, lacks: 0 });
        }
    }

    /// The user without an attempt for the longest time, so that one that fails holds up nobody. Users that
    /// read come first.
    fn next(&self, rested: Instant) -> Option<(UserId, Waiting)> {
        let (waiting, now) = (lock(&self.waiting), Instant::now());
        let ready = waiting.iter().filter(|(_, waiting)| waiting.begins(rested) <= now);
        let first = ready.min_by_key(|(_, waiting)| (!waiting.is_read, waiting.tried))?;
        Some((first.0.clone(), first.1.clone()))
    }

    /// The time until the next turn.
    fn until_next(&self, rested: Instant) -> Duration {
        let begins = lock(&self.waiting).values().map(|waiting| waiting.begins(rested)).min();
        begins.map_or(PAUSE, |begins| begins.duration_since(Instant::now()))
    }

    fn tried(&self, user: &UserId) {
        if let Some(waiting) = lock(&self.waiting).get_mut(user) {
            waiting.tried = Instant::now();
            waiting.lacks = 0;
        }
    }

    fn lacks(&self, user: &UserId) {
        if let Some(waiting) = lock(&self.waiting).get_mut(user) {
            let pause = AFTER_LACK.saturating_mul(1 << waiting.lacks.min(8)).min(LONGEST_AFTER_LACK);
            waiting.tried = Instant::now();
            waiting.ready = waiting.tried + pause;
            waiting.lacks = waiting.lacks.saturating_add(1);
        }
    }

    /// Removes the days, and the user if it waits for no others.
    fn done(&self, user: &UserId, done: &[DaySpan]) {
        let mut waiting = lock(&self.waiting);
        let Some(known) = waiting.get_mut(user) else { return };
        known.spans.retain(|span| !done.iter().any(|done| contains(*done, *span)));
        if known.spans.is_empty() {
            waiting.remove(user);
        }
    }
}

fn contains(outer: DaySpan, inner: DaySpan) -> bool {
    outer.first <= inner.first && inner.last <= outer.last
}

/// Adds a span, and joins it with those that it touches.
fn add(spans: &mut Vec<DaySpan>, span: DaySpan) {
    let joined = |a: DaySpan, b: DaySpan| DaySpan { first: a.first.min(b.first), last: a.last.max(b.last) };
    let touches = |a: DaySpan, b: DaySpan| a.first <= b.last && b.first <= a.last;
    let mut new = span;
    spans.retain(|known| {
        let is_apart = !touches(*known, span);
        if !is_apart {
            new = joined(new, *known);
        }
        is_apart
    });
    spans.push(new);
    if spans.len() > MOST_SPANS {
        *spans = vec![spans.iter().copied().fold(new, joined)];
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

fn check_rows(days: &[UseDay]) -> Result<()> {
    let rows: u64 = days.iter().flat_map(UseDay::parts).map(|part| part.rows).sum();
    if rows <= MOST_READ {
        return Ok(());
    }
    let why = format!("begins days with {rows} sums by model and API key, more than {MOST_READ}; ask for fewer days");
    Err(Invalid::new("from", why).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_waits_for_no_rest() {
        let now = Instant::now();
        let rested = now + LONGEST_REST;
        let waiting = |is_read| Waiting { spans: Vec::new(), since: now, tried: now, ready: now, is_read, lacks: 0 };
        assert_eq!((waiting(true).begins(rested), waiting(false).begins(rested)), (now, rested));
        let later = Waiting { ready: rested, ..waiting(false) };
        assert_eq!(later.begins(now), rested);
    }

    #[test]
    fn days_that_are_far_apart_wait_apart() {
        let span = |first: &str, last: &str| DaySpan { first: first.parse().unwrap(), last: last.parse().unwrap() };
        let mut spans = Vec::new();
        add(&mut spans, span("2024-01-01", "2024-01-02"));
        add(&mut spans, span("2026-11-01", "2026-11-20"));
        assert_eq!(spans.len(), 2);
        add(&mut spans, span("2026-11-20", "2026-11-22"));
        assert_eq!(spans[1], span("2026-11-01", "2026-11-22"));
        for day in 1..=20 {
            let day = format!("2025-03-{day:02}");
            add(&mut spans, span(&day, &day));
        }
        assert!(spans.len() <= MOST_SPANS);
        assert!(spans.iter().any(|known| contains(*known, span("2024-01-01", "2024-01-02"))));
    }
}
