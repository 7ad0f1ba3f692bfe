//! The two caches: the near cache in the memory of this process, and the optional shared cache
//! (Redis). Settlement notifies both of its commits through [`CommitListener`].

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::{account_cache::AccountCache, single_flight::SingleFlight, update_queue::UpdateQueue};
use crate::biz::{
    settlement::{change::Change, commit_listener::CommitListener},
    values::cache_key::CacheKey,
};

/// The conditions under which a near entry is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// At any age: every change of an account reaches the near cache or empties it.
    Always,
    /// Up to this age, and only for accounts that are far from every limit, because other
    /// processes change accounts too.
    WhileFar(Duration),
}

/// Time that an uncertain key, whose last settlement has an unknown outcome, is read from the
/// database. It is longer than a database takes to commit or roll back.
const UNCERTAIN_FOR: Duration = Duration::from_secs(60);

/// Interval at which uncertain keys are invalidated again in the shared cache.
const FORGET_AGAIN: Duration = Duration::from_secs(2);
/// Most uncertain keys that are kept one by one; beyond it, every key is uncertain.
const MAX_UNCERTAIN: usize = 100_000;

/// The cache keys that must be read from the database, with the end of that time.
#[derive(Default)]
struct UncertainKeys {
    of: BTreeMap<CacheKey, Instant>,
    of_all: Option<Instant>,
    forgotten_at: Option<Instant>,
}

impl UncertainKeys {
    fn add(&mut self, cache_keys: &[CacheKey], until: Instant) {
        self.of.extend(cache_keys.iter().map(|cache_key| (cache_key.clone(), until)));
        if self.of.len() > MAX_UNCERTAIN {
            self.of.clear();
            self.of_all = Some(until);
        }
    }

    fn has(&self, cache_key: &CacheKey) -> bool {
        self.of_all.is_some() || self.of.contains_key(cache_key)
    }
}

/// The caches of this process.
pub struct Caches {
    pub(super) near: Arc<dyn AccountCache>,
    pub(super) trust: Trust,
    pub(super) shared: Option<Arc<dyn AccountCache>>,
    pub(super) loads: SingleFlight,
    update_queue: UpdateQueue,
    uncertain: Mutex<UncertainKeys>,
    has_uncertain: AtomicBool,
}

impl Caches {
    pub fn new(near: Arc<dyn AccountCache>, trust: Trust, shared: Option<Arc<dyn AccountCache>>) -> Self {
        Self {
            near,
            trust,
            shared,
            loads: SingleFlight::default(),
            update_queue: UpdateQueue::default(),
            uncertain: Mutex::default(),
            has_uncertain: AtomicBool::new(false),
        }
    }

    /// Invalidates cache keys that changed by other means than a settlement.
    pub async fn forget(&self, cache_keys: &[CacheKey]) {
        for cache_key in cache_keys {
            self.loads.leave(cache_key);
        }
        // Before the near cache: once the near entry is gone, readers ask the shared cache, unless
        // the key is in the queue.
        if self.shared.is_some() {
            self.update_queue.forget(cache_keys);
        }
        self.near.forget(cache_keys).await;
    }

    /// Empties the near cache, because another process changed the database and the changed
    /// accounts are not known.
    pub async fn forget_near(&self) {
        if let Err(error) = self.near.clear().await {
            tracing::error!(%error, "near cache not emptied; entries may be stale");
        }
    }

    /// Sends updates to the shared cache until `stop`.
    pub async fn deliver(&self, stop: &CancellationToken) {
        match &self.shared {
            Some(shared) => self.update_queue.deliver(&**shared, stop).await,
            None => stop.cancelled().await,
        }
    }

    /// Sends the waiting updates to the shared cache; false if some could not be sent.
    pub async fn flush(&self) -> bool {
        match &self.shared {
            Some(shared) => self.update_queue.flush(&**shared).await,
            None => true,
        }
    }

    /// Whether entries expire so soon that a warm-up is useless.
    pub fn forgets_soon(&self) -> bool {
        self.shared.is_none() && self.trust != Trust::Always
    }

    /// Whether a cache key must be read from the database, because its last settlement has an
    /// unknown outcome.
    pub(super) fn is_uncertain(&self, cache_key: &CacheKey) -> bool {
        self.has_uncertain.load(Ordering::Acquire) && self.uncertain().has(cache_key)
    }

    /// Whether the entry in the shared cache may be stale, because an update waits in the queue.
    pub(super) fn is_late(&self, cache_key: &CacheKey) -> bool {
        self.update_queue.has(cache_key)
    }

    /// Ends the uncertainty of keys whose time is over: the database has committed or rolled back.
    pub async fn expire_uncertain(&self) {
        let now = Instant::now();
        let (over, all_over) = {
            let uncertain = self.uncertain();
            let over = uncertain.of.iter().filter(|(_, until)| **until <= now).map(|(cache_key, _)| cache_key.clone());
            (over.collect::<Vec<_>>(), uncertain.of_all.is_some_and(|until| until <= now))
        };
        self.forget_uncertain_again(now).await;
        if over.is_empty() && !all_over {
            return;
        }
        // Invalidated before caches are used for them again.
        self.forget(&over).await;
        if all_over {
            self.update_queue.forget_all();
            self.forget_near().await;
        }
        let mut uncertain = self.uncertain();
        uncertain.of.retain(|_, until| *until > now);
        uncertain.of_all = uncertain.of_all.filter(|until| *until > now);
        self.has_uncertain.store(!uncertain.of.is_empty() || uncertain.of_all.is_some(), Ordering::Release);
    }

    /// Invalidates uncertain keys again, because another process may have loaded the state from
    /// before the settlement with the unknown outcome ended.
    async fn forget_uncertain_again(&self, now: Instant) {
        let again: Vec<CacheKey> = {
            let mut uncertain = self.uncertain();
            if uncertain.of.is_empty() || uncertain.forgotten_at.is_some_and(|at| now < at + FORGET_AGAIN) {
                return;
            }
            uncertain.forgotten_at = Some(now);
            uncertain.of.keys().cloned().collect()
        };
        if self.shared.is_some() {
            self.update_queue.forget(&again);
        }
    }

    fn uncertain(&self) -> MutexGuard<'_, UncertainKeys> {
        self.uncertain.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl CommitListener for Caches {
    async fn committed(&self, changes: Vec<Change>) {
        for change in &changes {
            self.loads.leave(&change.cache_key());
        }
        // Before the near cache: once the near entry is gone, readers ask the shared cache, unless
        // the key is in the queue.
        if self.shared.is_some() {
            self.update_queue.changed(changes.clone());
        }
        self.near.apply(&changes).await;
    }

    async fn invalidate(&self, cache_keys: Vec<CacheKey>) {
        self.forget(&cache_keys).await;
    }

    async fn outcome_unknown(&self, cache_keys: Vec<CacheKey>) {
        {
            let until = Instant::now() + UNCERTAIN_FOR;
            let mut uncertain = self.uncertain();
            uncertain.add(&cache_keys, until);
            self.has_uncertain.store(true, Ordering::Release);
        }
        self.forget(&cache_keys).await;
    }
}
