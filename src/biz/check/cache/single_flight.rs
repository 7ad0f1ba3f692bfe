//! Loads in flight. A caller that misses an entry waits for the load of another caller, if
//! there is one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::OnceCell;

use super::entry::CacheEntry;
use crate::biz::values::{cache_key::CacheKey, error::Result};

type Load = Arc<OnceCell<Result<Arc<CacheEntry>>>>;

/// One load at a time of each cache key.
#[derive(Default)]
pub(super) struct SingleFlight(Mutex<HashMap<CacheKey, Load>>);

impl SingleFlight {
    /// Waits for the load of this cache key that is in flight, or runs `load`. If the caller that
    /// runs the load is cancelled, another caller runs its own.
    pub async fn once(
        &self,
        cache_key: &CacheKey,
        load: impl Future<Output = Result<Arc<CacheEntry>>>,
    ) -> Result<Arc<CacheEntry>> {
        let waiter = Waiter { loads: self, cache_key, load: self.lock().entry(cache_key.clone()).or_default().clone() };
        waiter.load.get_or_init(|| load).await.clone()
    }

    /// Makes the next caller start a load of its own. A load in flight may have read the state
    /// from before a change that is known now.
    pub fn leave(&self, cache_key: &CacheKey) {
        self.lock().remove(cache_key);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<CacheKey, Load>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One caller of a load. The first caller that leaves after the load is done removes it from
/// the map. The last caller removes it in any case.
struct Waiter<'a> {
    loads: &'a SingleFlight,
    cache_key: &'a CacheKey,
    load: Load,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut loads = self.loads.lock();
        let is_ours = loads.get(self.cache_key).is_some_and(|load| Arc::ptr_eq(load, &self.load));
        // One reference of the map and one of this waiter.
        let is_last = Arc::strong_count(&self.load) <= 2;
        if is_ours && (self.load.initialized() || is_last) {
            loads.remove(self.cache_key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::biz::values::{error::Error, ids::UserId};

    #[tokio::test]
    async fn callers_share_a_load_and_its_outcome_is_not_cached() {
        let (loads, cache_key) = (SingleFlight::default(), CacheKey::User(UserId::from_stored("u")));
        let made = std::sync::atomic::AtomicU32::new(0);
        let load = || async {
            tokio::task::yield_now().await;
            made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Err(Error::Overloaded("x".into()))
        };
        let (one, other) = tokio::join!(loads.once(&cache_key, load()), loads.once(&cache_key, load()));
        assert!(one.is_err() && other.is_err());
        assert_eq!(made.load(std::sync::atomic::Ordering::Relaxed), 1);
        assert!(loads.lock().is_empty());
    }

    #[tokio::test]
    async fn a_cancelled_caller_leaves_the_load_to_another() {
        let (loads, cache_key) = (Arc::new(SingleFlight::default()), CacheKey::User(UserId::from_stored("u")));
        let mut first = Box::pin(loads.once(&cache_key, std::future::pending()));
        assert!(futures_util::poll!(&mut first).is_pending());
        let mut second = Box::pin(loads.once(&cache_key, async { Err(Error::Overloaded("mine".into())) }));
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        assert_eq!(second.await, Err(Error::Overloaded("mine".into())));
        assert!(loads.lock().is_empty());
    }
}
