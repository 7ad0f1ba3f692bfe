//! The retries of a webhook, in the order of their times. Few of them have events in memory.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use chrono::{DateTime, TimeDelta, Utc};

use crate::biz::{
    events::{Event, Position},
    webhooks::delivery::{OrderKey, StoredRetry},
};

/// Most retries with events in memory, beside those on their way. The events of the others are read when their turn
/// comes.
const MAX_LOADED: usize = 16;
/// The time in which a retry becomes due early at most once. Its event may be refused although the receiver is back.
const HASTENED_ONCE_IN: TimeDelta = TimeDelta::hours(1);

/// Keys of retries in the order of a time.
type ByTime = BTreeSet<(DateTime<Utc>, OrderKey)>;

#[derive(Debug)]
pub(super) struct Retry {
    /// As [`StoredRetry::next`].
    pub next: Position,
    /// The last event of the retry is at this position or before it.
    pub until: Position,
    pub attempts: u32,
    pub first_at: Option<DateTime<Utc>>,
    pub next_at: DateTime<Utc>,
    /// As [`StoredRetry::failed_at`].
    pub failed_at: Option<DateTime<Utc>>,
    /// When it became due early, because the receiver was back.
    pub hastened_at: Option<DateTime<Utc>>,
}

impl Retry {
    /// A retry without an attempt, of the events from `next` to `until`.
    pub fn untried(next: Position, until: Position, next_at: DateTime<Utc>) -> Self {
        Self { next, until, attempts: 0, first_at: None, next_at, failed_at: None, hastened_at: None }
    }

    /// A stored retry of a webhook that is at `position`.
    pub fn of_stored(stored: StoredRetry, position: Position) -> (OrderKey, Self) {
        let StoredRetry { key, next, attempts, first_at, next_at, failed_at } = stored;
        // Events behind the stored position are read again, and then prolong the retry.
        let until = position.max(next);
        (key, Self { next, until, attempts, first_at, next_at, failed_at, hastened_at: None })
    }

    pub fn stored(&self, key: &OrderKey) -> StoredRetry {
        let Self { next, attempts, first_at, next_at, failed_at, .. } = *self;
        StoredRetry { key: key.clone(), next, attempts, first_at, next_at, failed_at }
    }
}

/// All retries. Each step of a delivery takes time that grows with the logarithm of their number, because many may wait.
#[derive(Debug, Default)]
pub(super) struct Retries {
    all: BTreeMap<OrderKey, Retry>,
    /// Those that are tried again after a failed attempt, by time.
    refused: ByTime,
    /// Those without a failed attempt, by time.
    untried: ByTime,
    /// Those of both that may become due early, by time.
    hastenable: ByTime,
    /// The others of both, by the time at which they became due early.
    hastened: ByTime,
    /// The number of those that were given up.
    failed: usize,
    /// The first events of a retry, as far as they were read.
    loaded: BTreeMap<OrderKey, VecDeque<Event>>,
    /// The number of changes.
    #[cfg(test)]
    pub changes: usize,
}

impl Retries {
    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Users whose next event was refused, with those who were given up.
    pub fn refused(&self) -> usize {
        self.refused.len() + self.failed
    }

    /// Users whose events were given up.
    pub fn failed(&self) -> usize {
        self.failed
    }

    pub fn get(&self, key: &OrderKey) -> Option<&Retry> {
        self.all.get(key)
    }

    pub fn keys(&self) -> impl Iterator<Item = &OrderKey> {
        self.all.keys()
    }

    pub fn insert(&mut self, key: OrderKey, retry: Retry) {
        self.remove(&key);
        self.put(key, retry);
    }

    pub fn remove(&mut self, key: &OrderKey) {
        self.take(key);
        self.loaded.remove(key);
    }

    /// Changes a retry, if it is there.
    pub fn change<T>(&mut self, key: &OrderKey, change: impl FnOnce(&mut Retry) -> T) -> Option<T> {
        let mut retry = self.take(key)?;
        #[cfg(test)]
        {
            self.changes += 1;
        }
        let changed = change(&mut retry);
        self.put(key.clone(), retry);
        Some(changed)
    }

    /// Notes a later event of a retry. False if there is no retry.
    pub fn prolong(&mut self, key: &OrderKey, position: Position) -> bool {
        let found = self.all.get_mut(key);
        let is_there = found.is_some();
        if let Some(retry) = found {
            retry.until = retry.until.max(position);
        }
        is_there
    }

    /// The first retry that is due and not `busy`; with `is_untried`, also of those without a failed attempt.
    pub fn due(
        &self,
        now: DateTime<Utc>,
        busy: &BTreeMap<OrderKey, Position>,
        is_untried: bool,
    ) -> Option<(&OrderKey, &Retry)> {
        let refused = first_free(&self.refused, now, busy);
        let untried = first_free(&self.untried, now, busy).filter(|_| is_untried);
        let (_, key) = refused.into_iter().chain(untried).min()?;
        self.all.get_key_value(key)
    }

    /// Whether a retry is due; with `is_untried`, also of those without a failed attempt.
    pub fn is_any_due(&self, now: DateTime<Utc>, is_untried: bool) -> bool {
        let is_due = |retries: &ByTime| retries.first().is_some_and(|(at, _)| *at <= now);
        is_due(&self.refused) || is_untried && is_due(&self.untried)
    }

    /// Makes the retries due whose times are later than `now`, each once an hour at most. Returns them.
    ///
    /// A receiver may come back several times a second. So only those that become due are looked at, and each of
    /// them counts as hastened for an hour.
    pub fn hasten(&mut self, now: DateTime<Utc>) -> Vec<OrderKey> {
        // Ends: each change takes one out.
        while let Some((at, key)) = self.hastened.first()
            && now - *at >= HASTENED_ONCE_IN
        {
            let key = key.clone();
            self.change(&key, |retry| retry.hastened_at = None);
        }
        let later = self.hastenable.iter().rev().take_while(|(at, _)| *at > now);
        let later: Vec<OrderKey> = later.map(|(_, key)| key.clone()).collect();
        for key in &later {
            self.change(key, |retry| (retry.next_at, retry.hastened_at) = (now, Some(now)));
        }
        later
    }

    /// The first event of a retry, if it is in memory.
    pub fn first_event(&self, key: &OrderKey) -> Option<&Event> {
        self.loaded.get(key)?.front()
    }

    /// Keeps the first events of a retry.
    pub fn load(&mut self, key: &OrderKey, events: Vec<Event>) {
        if self.all.contains_key(key) && !events.is_empty() {
            self.loaded.insert(key.clone(), events.into());
        }
    }

    /// Drops the first event of a retry if it is at `position`.
    pub fn pop_event(&mut self, key: &OrderKey, position: Position) {
        let Some(events) = self.loaded.get_mut(key) else { return };
        // There is another one in front if the event was on its way when the retry began.
        if events.front().is_some_and(|first| first.position == position) {
            events.pop_front();
        }
        if events.is_empty() {
            self.loaded.remove(key);
        }
    }

    /// Drops the events of a retry. They are read again when its turn comes.
    pub fn unload(&mut self, key: &OrderKey) {
        self.loaded.remove(key);
    }

    /// Drops the events of a retry if many others have events in memory.
    pub fn unload_if_many(&mut self, key: &OrderKey) {
        if self.loaded.len() > MAX_LOADED {
            self.loaded.remove(key);
        }
    }

    /// Drops all events but those at the positions of `busy`.
    pub fn unload_all_but(&mut self, busy: &BTreeMap<OrderKey, Position>) {
        self.loaded.retain(|key, events| {
            events.retain(|event| busy.get(key) == Some(&event.position));
            !events.is_empty()
        });
    }

    #[cfg(test)]
    pub fn events_in_memory(&self) -> usize {
        self.loaded.values().map(VecDeque::len).sum()
    }

    fn take(&mut self, key: &OrderKey) -> Option<Retry> {
        let retry = self.all.remove(key)?;
        let entry = (retry.next_at, key.clone());
        if retry.failed_at.is_some() {
            self.failed -= 1;
            return Some(retry);
        }
        match retry.attempts {
            0 => self.untried.remove(&entry),
            _ => self.refused.remove(&entry),
        };
        match retry.hastened_at {
            Some(at) => self.hastened.remove(&(at, entry.1)),
            None => self.hastenable.remove(&entry),
        };
        Some(retry)
    }

    fn put(&mut self, key: OrderKey, retry: Retry) {
        if retry.failed_at.is_some() {
            self.failed += 1;
        } else {
            let entry = (retry.next_at, key.clone());
            match retry.hastened_at {
                Some(at) => self.hastened.insert((at, key.clone())),
                None => self.hastenable.insert(entry.clone()),
            };
            match retry.attempts {
                0 => self.untried.insert(entry),
                _ => self.refused.insert(entry),
            };
        }
        self.all.insert(key, retry);
    }
}

/// The first one that is due and not `busy`. As many as are busy are passed over at most.
fn first_free<'r>(
    retries: &'r ByTime,
    now: DateTime<Utc>,
    busy: &BTreeMap<OrderKey, Position>,
) -> Option<&'r (DateTime<Utc>, OrderKey)> {
    retries.iter().take_while(|(at, _)| *at <= now).find(|(_, key)| !busy.contains_key(key))
}

impl FromIterator<(OrderKey, Retry)> for Retries {
    fn from_iter<I: IntoIterator<Item = (OrderKey, Retry)>>(retries: I) -> Self {
        let mut all = Self::default();
        for (key, retry) in retries {
            all.insert(key, retry);
        }
        all
    }
}
