//! Updates that wait to be sent to the shared cache. While an update of a cache key waits, this
//! process does not read that key from the shared cache, because the entry there may be stale.
//!
//! The queue is in memory: an update that was not sent when the process dies is lost.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, field::Empty};

use super::account_cache::AccountCache;
use crate::biz::{
    settlement::change::Change,
    values::{
        cache_key::CacheKey,
        spans::{MAX_LINKS, TARGET},
    },
};

/// Most updates of one round trip.
const CHUNK: usize = 256;
/// Most cache keys that may wait; beyond it, the whole cache is invalidated.
const MAX_WAITING: usize = 100_000;
/// Most changes of one cache key that may wait and can't be merged; beyond it, the key is
/// invalidated.
const MAX_OF_ONE: usize = 16;
/// Pause before failed updates are sent again.
const RETRY: Duration = Duration::from_millis(250);

/// The queue of updates for the shared cache.
#[derive(Default)]
pub(super) struct UpdateQueue {
    waiting: Mutex<Waiting>,
    /// Whether an update waits or is in flight; read without the lock.
    is_busy: AtomicBool,
    notify: Notify,
}

#[derive(Default)]
struct Waiting {
    /// Changes in order; consecutive changes are merged.
    changes: HashMap<CacheKey, Vec<Change>>,
    /// Keys to invalidate, because changes are missing or could not be sent.
    stale: HashSet<CacheKey>,
    in_flight: HashSet<CacheKey>,
    /// The span of the next update, if a settlement of its changes is traced. It lies below the first of them.
    update: Option<TracedUpdate>,
    /// Invalidate the whole cache, because too many updates waited.
    everything: bool,
    is_clearing: bool,
}

/// The span of an update, from its first change on.
struct TracedUpdate {
    span: Span,
    /// Settlements that it links to.
    links: usize,
}

impl Waiting {
    /// Begins the span of the next update below the current settlement, or links that span to the settlement. Neither
    /// enters the settlement later nor keeps it, because both would move its end.
    fn trace(&mut self, settlement: &Span) {
        if settlement.is_disabled() {
            return;
        }
        let update = self.update.get_or_insert_with(|| TracedUpdate {
            span: tracing::info_span!(target: TARGET, "cache update", "billing.batch.size" = Empty),
            links: 0,
        });
        if update.links < MAX_LINKS {
            update.links += 1;
            update.span.follows_from(settlement);
        }
    }

    fn is_empty(&self) -> bool {
        self.changes.is_empty()
            && self.stale.is_empty()
            && self.in_flight.is_empty()
            && !self.everything
            && !self.is_clearing
    }

    fn forget(&mut self, cache_key: CacheKey) {
        self.changes.remove(&cache_key);
        self.stale.insert(cache_key);
        self.bound();
    }

    fn change(&mut self, change: Change) {
        let cache_key = change.cache_key();
        if self.stale.contains(&cache_key) {
            return;
        }
        let changes = self.changes.entry(cache_key.clone()).or_default();
        match changes.pop() {
            None => changes.push(change),
            Some(last) => match last.then(&change) {
                Some(both) => changes.push(both),
                // Another process made a change in between.
                None => changes.extend([last, change]),
            },
        }
        if changes.len() > MAX_OF_ONE {
            self.forget(cache_key);
        } else {
            self.bound();
        }
    }

    fn bound(&mut self) {
        if self.changes.len() + self.stale.len() > MAX_WAITING {
            tracing::warn!("too many cache updates waiting; invalidating the whole shared cache");
            (self.changes, self.stale) = Default::default();
            self.everything = true;
        }
    }
}

impl UpdateQueue {
    pub fn changed(&self, changes: Vec<Change>) {
        self.put(|waiting| {
            waiting.trace(&Span::current());
            changes.into_iter().for_each(|change| waiting.change(change));
        });
    }

    pub fn forget(&self, cache_keys: &[CacheKey]) {
        self.put(|waiting| cache_keys.iter().for_each(|cache_key| waiting.forget(cache_key.clone())));
    }

    /// Invalidates the whole shared cache.
    pub fn forget_all(&self) {
        self.put(|waiting| waiting.everything = true);
    }

    /// Whether the entry of this cache key in the shared cache may be stale.
    pub fn has(&self, cache_key: &CacheKey) -> bool {
        if !self.is_busy.load(Ordering::Acquire) {
            return false;
        }
        let waiting = self.lock();
        waiting.everything
            || waiting.is_clearing
            || waiting.changes.contains_key(cache_key)
            || waiting.stale.contains(cache_key)
            || waiting.in_flight.contains(cache_key)
    }

    fn put(&self, put: impl FnOnce(&mut Waiting)) {
        let mut waiting = self.lock();
        put(&mut waiting);
        self.is_busy.store(!waiting.is_empty(), Ordering::Release);
        drop(waiting);
        self.notify.notify_one();
    }

    /// Sends updates to `cache` as they come, until `stop`.
    pub async fn deliver(&self, cache: &dyn AccountCache, stop: &CancellationToken) {
        let mut retry_at = None;
        loop {
            let sent = self.send_changes(cache).await;
            // Also between changes, because changes may come without a pause.
            if retry_at.is_none_or(|at| Instant::now() >= at) {
                retry_at = if self.send_invalidations(cache).await { None } else { Some(Instant::now() + RETRY) };
            }
            if !sent {
                let retry = sleep_until(retry_at.unwrap_or_else(Instant::now));
                tokio::select! {
                    () = self.notify.notified() => {}
                    () = stop.cancelled() => return,
                    () = retry, if retry_at.is_some() => {}
                }
            }
        }
    }

    /// Sends all waiting updates, and returns whether the queue is empty afterwards.
    pub async fn flush(&self, cache: &dyn AccountCache) -> bool {
        while self.send_changes(cache).await {}
        self.send_invalidations(cache).await && self.lock().is_empty()
    }

    /// Sends some of the changes; false if there are none.
    async fn send_changes(&self, cache: &dyn AccountCache) -> bool {
        let (changes, traced): (Vec<Change>, _) = {
            let mut waiting = self.lock();
            let traced = waiting.update.take();
            let cache_keys: Vec<CacheKey> = waiting.changes.keys().take(CHUNK).cloned().collect();
            let changes =
                cache_keys.iter().filter_map(|cache_key| waiting.changes.remove(cache_key)).flatten().collect();
            waiting.in_flight.extend(cache_keys);
            (changes, traced)
        };
        if changes.is_empty() {
            return false;
        }
        let span = traced.map_or_else(Span::none, |update| update.span);
        span.record("billing.batch.size", changes.len());
        let failed = cache.apply(&changes).instrument(span).await;
        self.delivered(changes.iter().map(Change::cache_key), failed);
        true
    }

    /// Sends the invalidations; false if some could not be sent.
    async fn send_invalidations(&self, cache: &dyn AccountCache) -> bool {
        let mut is_sent = true;
        let clears = {
            let mut waiting = self.lock();
            waiting.is_clearing = std::mem::take(&mut waiting.everything);
            waiting.is_clearing
        };
        if clears {
            is_sent = cache.clear().await.is_ok();
            let mut waiting = self.lock();
            waiting.is_clearing = false;
            waiting.everything |= !is_sent;
            self.is_busy.store(!waiting.is_empty(), Ordering::Release);
        }
        let stale: Vec<CacheKey> = {
            let mut waiting = self.lock();
            let stale: Vec<CacheKey> = waiting.stale.drain().collect();
            waiting.in_flight.extend(stale.iter().cloned());
            stale
        };
        for chunk in stale.chunks(CHUNK) {
            // In a cluster, one node may fail while others answer.
            let failed = cache.forget(chunk).await;
            is_sent &= failed.is_empty();
            self.delivered(chunk.iter().cloned(), failed);
        }
        is_sent
    }

    fn delivered(&self, cache_keys: impl Iterator<Item = CacheKey>, failed: Vec<CacheKey>) {
        let mut waiting = self.lock();
        for cache_key in cache_keys {
            waiting.in_flight.remove(&cache_key);
        }
        for cache_key in failed {
            waiting.forget(cache_key);
        }
        self.is_busy.store(!waiting.is_empty(), Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        sync::{
            Arc,
            atomic::{AtomicI64, Ordering::Relaxed},
        },
    };

    use async_trait::async_trait;

    use super::*;
    use crate::biz::{
        account::Balance,
        check::cache::{
            account_cache::{Fence, Found},
            entry::CacheEntry,
        },
        settlement::change::AccountChange,
        values::{error::StoreError, ids::UserId},
    };

    /// A cache that queues another change with every change it receives.
    struct Busy {
        update_queue: Arc<UpdateQueue>,
        version: AtomicI64,
        forgets: Notify,
        /// Whether updates succeed.
        answers: bool,
        forgotten: AtomicI64,
    }

    impl Busy {
        fn new(answers: bool) -> Self {
            let (update_queue, version, forgotten) = Default::default();
            Self { update_queue, version, forgets: Notify::new(), answers, forgotten }
        }

        fn next(&self) -> Change {
            let before = self.version.fetch_add(1, Relaxed);
            // In an outage each change has a user of its own, so changes are not merged.
            let user = UserId::from_stored(if self.answers { "busy".to_owned() } else { format!("u{before}") });
            let balance = Balance { version: before + 1, ..Balance::default() };
            Change::Account(AccountChange { user, before, balance, requests: None, quotas: BTreeMap::new() })
        }
    }

    #[async_trait]
    impl AccountCache for Busy {
        async fn look(&self, _: &CacheKey) -> Result<Option<Found>, StoreError> {
            Ok(None)
        }

        async fn look_all(&self, _: &[CacheKey]) -> Result<Vec<Option<Arc<CacheEntry>>>, StoreError> {
            Ok(Vec::new())
        }

        async fn fence(&self, _: &CacheKey) -> Result<Fence, StoreError> {
            Ok(Fence(0))
        }

        async fn store(&self, _: Fence, _: Found) -> Result<(), StoreError> {
            Ok(())
        }

        async fn apply(&self, changes: &[Change]) -> Vec<CacheKey> {
            self.update_queue.changed(vec![self.next()]);
            tokio::time::sleep(Duration::from_millis(1)).await;
            if self.answers { Vec::new() } else { changes.iter().map(Change::cache_key).collect() }
        }

        async fn forget(&self, cache_keys: &[CacheKey]) -> Vec<CacheKey> {
            self.forgets.notify_one();
            self.forgotten.fetch_add(1, Relaxed);
            if self.answers { Vec::new() } else { cache_keys.to_vec() }
        }

        async fn clear(&self) -> Result<(), StoreError> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn stale_keys_are_invalidated_during_endless_changes() {
        let cache = Busy::new(true);
        let stale = CacheKey::User(UserId::from_stored("stale"));
        cache.update_queue.changed(vec![cache.next()]);
        cache.update_queue.forget(&[stale]);
        let stop = CancellationToken::new();
        let delivering = cache.update_queue.deliver(&cache, &stop);
        let forgotten = tokio::time::timeout(Duration::from_secs(10), cache.forgets.notified());
        tokio::select! {
            () = delivering => panic!("the delivery ended without a stop"),
            in_time = forgotten => in_time.expect("the stale key is invalidated between changes"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn invalidations_of_a_silent_cache_are_not_resent_with_every_change() {
        let cache = Busy::new(false);
        cache.update_queue.changed(vec![cache.next()]);
        let stop = CancellationToken::new();
        let delivering = cache.update_queue.deliver(&cache, &stop);
        let _ = tokio::time::timeout(Duration::from_secs(1), delivering).await;
        assert!(cache.version.load(Relaxed) > 100);
        assert!((2..=20).contains(&cache.forgotten.load(Relaxed)), "{:?}", cache.forgotten);
    }
}
