//! The cache of one process. Entries and the fences of loads, in shards by subject.

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
        entry::{Applied, Change, Entry, Subject, Version},
    },
    values::error::StoreError,
};

const SHARDS: usize = 16;
/// Loads in a shard that have neither stored nor been overtaken; with one more, all of
/// them are told that they came too late.
const MAX_LOADS: usize = 1_024;

impl Shard {
    /// A state came by: a load of an older one must not be stored any more.
    fn overtake(&mut self, subject: &Subject, version: Version) {
        let Some(load) = self.loads.get_mut(subject) else { return };
        match &load.newest {
            Some(newest) if version.is_at_least(newest) => load.newest = Some(version),
            Some(newest) if newest.is_at_least(&version) => {}
            // Nobody can tell which is the newer.
            Some(_) => drop(self.loads.remove(subject)),
            None => load.newest = Some(version),
        }
    }
}

/// A bounded cache; what was not used for longest goes first.
pub struct MemoryCache {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
    tokens: AtomicU64,
}

struct Shard {
    entries: LruCache<Subject, Found>,
    loads: HashMap<Subject, Load>,
}

struct Load {
    fence: Fence,
    /// The newest state that came by since it began.
    newest: Option<Version>,
}

impl MemoryCache {
    /// Keeps about `entries` entries.
    pub fn new(entries: usize) -> Self {
        let room = NonZeroUsize::MIN.saturating_add(entries / SHARDS);
        let shard = || Mutex::new(Shard { entries: LruCache::new(room), loads: HashMap::new() });
        Self {
            shards: std::iter::repeat_with(shard).take(SHARDS).collect(),
            hasher: RandomState::new(),
            tokens: AtomicU64::new(0),
        }
    }

    fn shard(&self, subject: &Subject) -> MutexGuard<'_, Shard> {
        let number = self.hasher.hash_one(subject) % SHARDS as u64;
        lock(&self.shards[number as usize])
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl AccountCache for MemoryCache {
    async fn look(&self, subject: &Subject) -> Result<Option<Found>, StoreError> {
        Ok(self.shard(subject).entries.get(subject).cloned())
    }

    async fn look_all(&self, subjects: &[Subject]) -> Result<Vec<Option<Arc<Entry>>>, StoreError> {
        let look = |subject: &Subject| self.shard(subject).entries.get(subject).map(|found| found.entry.clone());
        Ok(subjects.iter().map(look).collect())
    }

    async fn fence(&self, subject: &Subject) -> Result<Fence, StoreError> {
        let fence = Fence(self.tokens.fetch_add(1, Relaxed).into());
        let mut shard = self.shard(subject);
        if shard.loads.len() >= MAX_LOADS {
            shard.loads.clear();
        }
        shard.loads.insert(subject.clone(), Load { fence, newest: None });
        Ok(fence)
    }

    async fn store(&self, fence: Fence, found: Found) -> Result<(), StoreError> {
        let (subject, version) = (found.entry.subject(), found.entry.version());
        let mut shard = self.shard(&subject);
        if shard.loads.get(&subject).is_none_or(|load| load.fence != fence) {
            return Ok(());
        }
        let newest = shard.loads.remove(&subject).and_then(|load| load.newest);
        if newest.is_none_or(|newest| version.is_at_least(&newest)) {
            shard.entries.put(subject, found);
        }
        Ok(())
    }

    async fn apply(&self, changes: &[Change]) -> Vec<Subject> {
        for change in changes {
            let subject = change.subject();
            let mut shard = self.shard(&subject);
            shard.overtake(&subject, change.after());
            let Some(found) = shard.entries.peek_mut(&subject) else { continue };
            match change.apply(&found.entry) {
                Applied::Next(entry) => found.entry = Arc::new(entry),
                Applied::Known => {}
                Applied::Missed => drop(shard.entries.pop(&subject)),
            }
        }
        Vec::new()
    }

    async fn forget(&self, subjects: &[Subject]) -> Vec<Subject> {
        for subject in subjects {
            let mut shard = self.shard(subject);
            shard.loads.remove(subject);
            shard.entries.pop(subject);
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
