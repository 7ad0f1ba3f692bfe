//! Bounded rates of events that nobody is asked to send, such as wrong tokens: each key has a number of
//! them at once, and they come back evenly over a period.

use std::{
    hash::Hash,
    num::NonZeroUsize,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use lru::LruCache;

/// Most keys in memory. The one that was silent for the longest time is forgotten.
const MAX_KEYS: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// The events of each key.
pub struct Bursts<K> {
    started: Instant,
    /// Most events at once.
    most: u64,
    /// The time in microseconds after which a key has one event more.
    pause_us: u64,
    /// For each key, the time in microseconds at which all its events are forgotten.
    forgotten_at: Mutex<LruCache<K, u64>>,
    /// The time in microseconds until which some key has events. Before the first event, a look costs
    /// one read.
    any_until: AtomicU64,
}

impl<K: Clone + Eq + Hash> Bursts<K> {
    /// `most` events at once, which come back within `period`.
    pub fn new(most: usize, period: Duration) -> Self {
        let most = u64::try_from(most).unwrap_or(u64::MAX).max(1);
        Self {
            started: Instant::now(),
            most,
            pause_us: (micros(period) / most).max(1),
            forgotten_at: Mutex::new(LruCache::new(MAX_KEYS)),
            any_until: AtomicU64::new(0),
        }
    }

    /// Counts an event.
    pub fn count(&self, key: &K) {
        self.count_at(key, self.now_us());
    }

    /// Whether the events of a key are used up.
    pub fn are_used_up(&self, key: &K) -> bool {
        let any_until = self.any_until.load(Relaxed);
        any_until > 0 && {
            let now_us = self.now_us();
            now_us < any_until && self.are_used_up_at(key, now_us)
        }
    }

    /// Counts an event, unless those of the key are used up.
    pub fn take(&self, key: &K) -> bool {
        let is_free = !self.are_used_up(key);
        if is_free {
            self.count(key);
        }
        is_free
    }

    fn count_at(&self, key: &K, now_us: u64) {
        let mut keys = self.forgotten_at.lock().unwrap_or_else(PoisonError::into_inner);
        let forgotten_at = keys.get_or_insert_mut(key.clone(), || now_us);
        let latest = now_us.saturating_add(self.pause_us.saturating_mul(self.most));
        *forgotten_at = ((*forgotten_at).max(now_us) + self.pause_us).min(latest);
        self.any_until.fetch_max(*forgotten_at, Relaxed);
    }

    fn are_used_up_at(&self, key: &K, now_us: u64) -> bool {
        let keys = self.forgotten_at.lock().unwrap_or_else(PoisonError::into_inner);
        let forgotten_at = keys.peek(key).copied().unwrap_or(0);
        forgotten_at > now_us.saturating_add(self.pause_us.saturating_mul(self.most - 1))
    }

    fn now_us(&self) -> u64 {
        micros(self.started.elapsed())
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 20;
    const PAUSE_US: u64 = 500_000;
    const FIRST: u64 = 1_000_000;

    fn bursts() -> Bursts<&'static str> {
        Bursts::new(MOST, Duration::from_secs(10))
    }

    #[test]
    fn a_key_has_a_burst_of_events_and_then_one_a_pause() {
        let bursts = bursts();
        for _ in 0..MOST {
            assert!(!bursts.are_used_up_at(&"a", FIRST));
            bursts.count_at(&"a", FIRST);
        }
        assert!(bursts.are_used_up_at(&"a", FIRST));
        assert!(!bursts.are_used_up_at(&"b", FIRST));
        let later = FIRST + PAUSE_US;
        assert!(!bursts.are_used_up_at(&"a", later));
        bursts.count_at(&"a", later);
        assert!(bursts.are_used_up_at(&"a", later));
    }

    #[test]
    fn more_events_do_not_lengthen_the_wait_for_ever() {
        let bursts = bursts();
        (0..10 * MOST).for_each(|_| bursts.count_at(&"a", FIRST));
        assert!(bursts.are_used_up_at(&"a", FIRST));
        assert!(!bursts.are_used_up_at(&"a", FIRST + PAUSE_US));
    }

    #[test]
    fn an_event_is_taken_while_some_are_left() {
        let bursts = Bursts::new(2, Duration::from_secs(3_600));
        assert_eq!([(); 4].map(|()| bursts.take(&"a")), [true, true, false, false]);
        assert!(bursts.take(&"b"));
    }
}
