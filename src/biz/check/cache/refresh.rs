//! Refreshes near entries in use before they are too old, many in one round trip to the shared
//! cache. Without it, each check that finds an old entry makes a round trip of its own.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::{account_cache::Found, caches::Caches};
use crate::biz::values::cache_key::CacheKey;

/// Time to gather cache keys for one round trip.
const GATHER: Duration = Duration::from_millis(10);
/// Most entries of one round trip.
const CHUNK: usize = 512;
/// Most cache keys that wait for a refresh. Further entries become too old and are read one by
/// one.
const MAX_WAITING: usize = 20_000;

/// The cache keys that wait for a refresh.
#[derive(Default)]
pub(super) struct RefreshQueue {
    cache_keys: Mutex<HashSet<CacheKey>>,
    notify: Notify,
}

impl RefreshQueue {
    pub fn add(&self, cache_key: &CacheKey) {
        let mut cache_keys = self.cache_keys.lock().unwrap_or_else(PoisonError::into_inner);
        if cache_keys.len() < MAX_WAITING && cache_keys.insert(cache_key.clone()) && cache_keys.len() == 1 {
            self.notify.notify_one();
        }
    }

    fn take(&self) -> Vec<CacheKey> {
        self.cache_keys.lock().unwrap_or_else(PoisonError::into_inner).drain().collect()
    }

    /// Refreshes the waiting cache keys, without an end.
    pub async fn refresh(&self, caches: &Caches) {
        loop {
            self.notify.notified().await;
            tokio::time::sleep(GATHER).await;
            for chunk in self.take().chunks(CHUNK) {
                refresh_some(caches, chunk).await;
            }
        }
    }
}

/// Refreshes some entries. An entry that can't be read is left to the next check.
async fn refresh_some(caches: &Caches, cache_keys: &[CacheKey]) {
    let Some(shared) = &caches.shared else { return };
    let (mut timely, mut fences) = (Vec::new(), Vec::new());
    for cache_key in cache_keys {
        // The fence comes first; `ReadModel::look_shared` says why.
        if let Ok(fence) = caches.near.fence(cache_key).await
            && !caches.is_late(cache_key)
        {
            timely.push(cache_key.clone());
            fences.push(fence);
        }
    }
    let as_of = Instant::now();
    let Ok(found) = shared.look_all(&timely).await else { return };
    for (fence, entry) in fences.into_iter().zip(found) {
        if let Some(entry) = entry {
            let _ = caches.near.store(fence, Found { entry, as_of }).await;
        }
    }
}
