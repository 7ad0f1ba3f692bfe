//! The near cache in the memory of one process: entries, and fences of loads, in shards by cache
//! key.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use async_trait::async_trait;
use lru::LruCache;

use crate::biz::{
    check::cache::{
        account_cache::{AccountCache, Fence, Found},
        entry::{Applied, CacheEntry},
    },
    settlement::change::{Change, Version},
    values::{cache_key::CacheKey, error::StoreError},
};

const SHARDS: usize = 16;
/// Most fences in a shard. One more clears them all, and the loads of the cleared fences do not
/// store their entries.
const MAX_LOADS: usize = 1_024;

impl CacheShard {
    /// Records a newer state, so that a load in flight does not store an older one.
    fn overtake(&mut self, cache_key: &CacheKey, version: Version) {
        let Some(load) = self.loads.get_mut(cache_key) else { return };
        match &load.newest {
            Some(newest) if version.is_at_least(newest) => load.newest = Some(version),
            Some(newest) if newest.is_at_least(&version) => {}
            // The two versions can't be ordered, so the load must not store.
            Some(_) => drop(self.loads.remove(cache_key)),
            None => load.newest = Some(version),
        }
    }
}

/// A bounded cache. The least recently used entry is dropped first.
pub struct MemoryCache {
    shards: Vec<Mutex<CacheShard>>,
    hasher: RandomState,
    tokens: AtomicU64,
}

struct CacheShard {
    entries: LruCache<CacheKey, Found>,
    loads: HashMap<CacheKey, PendingLoad>,
}

struct PendingLoad {
    fence: Fence,
    /// The newest version that was applied since the load began.
    newest: Option<Version>,
}

impl MemoryCache {
    /// A cache of about `entries` entries.
    pub fn new(entries: usize) -> Self {
        let room = NonZeroUsize::MIN.saturating_add(entries / SHARDS);
        let shard = || Mutex::new(CacheShard { entries: LruCache::new(room), loads: HashMap::new() });
        Self {
            shards: std::iter::repeat_with(shard).take(SHARDS).collect(),
            hasher: RandomState::new(),
            tokens: AtomicU64::new(0),
        }
    }

    fn shard(&self, cache_key: &CacheKey) -> MutexGuard<'_, CacheShard> {
        let number = self.hasher.hash_one(cache_key) % SHARDS as u64;
        lock(&self.shards[number as usize])
    }
}

fn lock(shard: &Mutex<CacheShard>) -> MutexGuard<'_, CacheShard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl AccountCache for MemoryCache {
    async fn look(&self, cache_key: &CacheKey) -> Result<Option<Found>, StoreError> {
        Ok(self.shard(cache_key).entries.get(cache_key).cloned())
    }

    async fn look_all(&self, cache_keys: &[CacheKey]) -> Result<Vec<Option<Arc<CacheEntry>>>, StoreError> {
        let look = |cache_key: &CacheKey| self.shard(cache_key).entries.get(cache_key).map(|found| found.entry.clone());
        Ok(cache_keys.iter().map(look).collect())
    }

    async fn fence(&self, cache_key: &CacheKey) -> Result<Fence, StoreError> {
        let fence = Fence(self.tokens.fetch_add(1, Relaxed).into());
        let mut shard = self.shard(cache_key);
        if shard.loads.len() >= MAX_LOADS {
            shard.loads.clear();
        }
        shard.loads.insert(cache_key.clone(), PendingLoad { fence, newest: None });
        Ok(fence)
    }

    async fn store(&self, fence: Fence, found: Found) -> Result<(), StoreError> {
        let (cache_key, version) = (found.entry.cache_key(), found.entry.version());
        let mut shard = self.shard(&cache_key);
        if shard.loads.get(&cache_key).is_none_or(|load| load.fence != fence) {
            return Ok(());
        }
        let newest = shard.loads.remove(&cache_key).and_then(|load| load.newest);
        if newest.is_none_or(|newest| version.is_at_least(&newest)) {
            shard.entries.put(cache_key, found);
        }
        Ok(())
    }

    async fn apply(&self, changes: &[Change]) -> Vec<CacheKey> {
        for change in changes {
            let cache_key = change.cache_key();
            let mut shard = self.shard(&cache_key);
            shard.overtake(&cache_key, change.after());
            let Some(found) = shard.entries.peek_mut(&cache_key) else { continue };
            match found.entry.apply(change) {
                Applied::Next(entry) => found.entry = Arc::new(entry),
                Applied::Known => {}
                Applied::Gap => drop(shard.entries.pop(&cache_key)),
            }
        }
        Vec::new()
    }

    async fn forget(&self, cache_keys: &[CacheKey]) -> Vec<CacheKey> {
        for cache_key in cache_keys {
            let mut shard = self.shard(cache_key);
            shard.loads.remove(cache_key);
            shard.entries.pop(cache_key);
        }
        Vec::new()
    }

    async fn clear(&self) -> Result<(), StoreError> {
        for shard in &self.shards {
            let mut shard = lock(shard);
            shard.entries.clear();
            shard.loads.clear();
        }
        Ok(())
    }
}
