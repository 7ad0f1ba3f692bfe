//! The cache interface of the read model.

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;

use super::entry::CacheEntry;
use crate::biz::{
    settlement::change::Change,
    values::{cache_key::CacheKey, error::StoreError},
};

/// A cached entry.
#[derive(Debug, Clone)]
pub struct Found {
    pub entry: Arc<CacheEntry>,
    /// The entry was current at this time or later.
    pub as_of: Instant,
}

/// The right to store a state that is read from the database after the fence was set. A change
/// of the entry, or a newer fence, revokes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence(pub u128);

/// Caches committed states. The cache may drop any entry at any time. It never keeps an entry
/// that is older than a change that was applied.
#[async_trait]
pub trait AccountCache: Send + Sync + 'static {
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn look(&self, cache_key: &CacheKey) -> Result<Option<Found>, StoreError>;

    /// As [`Self::look`], for several cache keys. An entry that can't be read counts as absent.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn look_all(&self, cache_keys: &[CacheKey]) -> Result<Vec<Option<Arc<CacheEntry>>>, StoreError>;

    /// Sets a fence. Call it before the state is read from the database.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: read without a fence, and do not store.
    async fn fence(&self, cache_key: &CacheKey) -> Result<Fence, StoreError>;

    /// Stores a state that was read after `fence` was set, unless a newer state has been applied,
    /// another load has set a fence, or the fence is gone.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: the state may be stored or not.
    async fn store(&self, fence: Fence, found: Found) -> Result<(), StoreError>;

    /// Applies each change to its entry, or drops the entry if that is not possible. Returns the
    /// cache keys whose entries may still be stale; the caller must [`Self::forget`] them later.
    async fn apply(&self, changes: &[Change]) -> Vec<CacheKey>;

    /// Drops the entries, and the fences of loads in flight. Returns the cache keys whose entries
    /// may still be there.
    async fn forget(&self, cache_keys: &[CacheKey]) -> Vec<CacheKey>;

    /// Drops all entries and fences.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: some entries may still be there.
    async fn clear(&self) -> Result<(), StoreError>;
}
