//! Entries of the near cache that are in use are read anew before they are too old, many in
//! one round trip. A check that met an old one would make a round trip of its own.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::{ReadModel, account_cache::Found, entry::CacheKey};

/// What is wanted within this time goes together.
const GATHER: Duration = Duration::from_millis(10);
/// Read at once, at most.
const CHUNK: usize = 512;
/// Entries that may wait; the others get too old, and are read one by one.
const MAX_WANTED: usize = 20_000;

/// The entries that are wanted again.
#[derive(Default)]
pub(super) struct Wanted {
    cache_keys: Mutex<HashSet<CacheKey>>,
    notify: Notify,
}

impl Wanted {
    pub fn want(&self, cache_key: &CacheKey) {
        let mut cache_keys = self.cache_keys.lock().unwrap_or_else(PoisonError::into_inner);
        if cache_keys.len() < MAX_WANTED && cache_keys.insert(cache_key.clone()) && cache_keys.len() == 1 {
            self.notify.notify_one();
        }
    }

    fn take(&self) -> Vec<CacheKey> {
        self.cache_keys.lock().unwrap_or_else(PoisonError::into_inner).drain().collect()
    }
}

impl ReadModel {
    /// Reads anew what is wanted, as it comes, for ever.
    pub async fn refresh(&self) {
        loop {
            self.wanted.notify.notified().await;
            tokio::time::sleep(GATHER).await;
            for chunk in self.wanted.take().chunks(CHUNK) {
                self.refresh_some(chunk).await;
            }
        }
    }

    /// What can't be read now is read when it is next asked for.
    async fn refresh_some(&self, cache_keys: &[CacheKey]) {
        let Some(shared) = &self.caches.shared else { return };
        let (mut timely, mut fences) = (Vec::new(), Vec::new());
        for cache_key in cache_keys {
            // In this order: see [`ReadModel::look_shared`].
            if let Ok(fence) = self.caches.near.fence(cache_key).await
                && !self.caches.is_late(cache_key)
            {
                timely.push(cache_key.clone());
                fences.push(fence);
            }
        }
        let as_of = Instant::now();
        let Ok(found) = shared.look_all(&timely).await else { return };
        for (fence, entry) in fences.into_iter().zip(found) {
            if let Some(entry) = entry {
                let _ = self.caches.near.store(fence, Found { entry, as_of }).await;
            }
        }
    }
}
