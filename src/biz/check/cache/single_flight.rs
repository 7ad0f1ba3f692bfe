//! SingleFlight under way: who misses what another is loading already waits for that load.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::OnceCell;

use super::entry::{CacheEntry, CacheKey};
use crate::biz::values::error::Result;

type Load = Arc<OnceCell<Result<Arc<CacheEntry>>>>;

/// One load at a time of each cache key.
#[derive(Default)]
pub(super) struct SingleFlight(Mutex<HashMap<CacheKey, Load>>);

impl SingleFlight {
    /// Waits for the load of this cache key that is under way, or makes it. When the caller
    /// that makes it goes away, another goes on with its own.
    pub async fn once(
        &self,
        cache_key: &CacheKey,
        load: impl Future<Output = Result<Arc<CacheEntry>>>,
    ) -> Result<Arc<CacheEntry>> {
        let waiter = Waiter { loads: self, cache_key, load: self.lock().entry(cache_key.clone()).or_default().clone() };
        waiter.load.get_or_init(|| load).await.clone()
    }

    /// Has the next caller begin a load of its own: those under way may have read before a
    /// change that is known now.
    pub fn leave(&self, cache_key: &CacheKey) {
        self.lock().remove(cache_key);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<CacheKey, Load>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One caller of a load. The first that leaves with its outcome takes it out, and the last
/// one does in any case.
struct Waiter<'a> {
    loads: &'a SingleFlight,
    cache_key: &'a CacheKey,
    load: Load,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut loads = self.loads.lock();
        let is_ours = loads.get(self.cache_key).is_some_and(|load| Arc::ptr_eq(load, &self.load));
        // The map's and this one.
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
    async fn callers_share_a_load_and_its_outcome_is_not_kept() {
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
    async fn a_caller_that_goes_away_leaves_the_load_to_another() {
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
