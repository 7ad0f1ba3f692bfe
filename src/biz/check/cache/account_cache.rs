//! What the read model needs of a cache.

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;

use super::entry::{CacheEntry, CacheKey, Change};
use crate::biz::values::error::StoreError;

/// A cached entry.
#[derive(Debug, Clone)]
pub struct Found {
    pub entry: Arc<CacheEntry>,
    /// It was true then, at the latest.
    pub as_of: Instant,
}

/// The right to store what is loaded from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence(pub u128);

/// Keeps committed states. It may forget any at any time, and never has one that is
/// older than a change that was applied to it.
#[async_trait]
pub trait AccountCache: Send + Sync + 'static {
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn look(&self, cache_key: &CacheKey) -> Result<Option<Found>, StoreError>;

    /// As [`Self::look`], for some cache keys at once; what fails is as if it were not there.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn look_all(&self, cache_keys: &[CacheKey]) -> Result<Vec<Option<Arc<CacheEntry>>>, StoreError>;

    /// To be put up before the state is read from the database.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: load without, and do not store.
    async fn fence(&self, cache_key: &CacheKey) -> Result<Fence, StoreError>;

    /// Keeps what was loaded behind a fence, unless something newer came by, another load
    /// began, or the fence is gone.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: it may be stored or not.
    async fn store(&self, fence: Fence, found: Found) -> Result<(), StoreError>;

    /// Has each entry be as its change left it, or gone. Returns the cache keys of those
    /// that may still be older; they have to be forgotten later.
    async fn apply(&self, changes: &[Change]) -> Vec<CacheKey>;

    /// Drops the entries, and the fences of loads that are under way. Returns those that
    /// may still be there.
    async fn forget(&self, cache_keys: &[CacheKey]) -> Vec<CacheKey>;

    /// Forgets everything.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: some of it may still be there.
    async fn clear(&self) -> Result<(), StoreError>;
}
