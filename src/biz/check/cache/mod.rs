//! The read model of checks: the committed state of an account and of an API key.
//!
//! A read goes to the near cache, then to the shared cache, then to the database, and stops at
//! the first that is known to be current. The database is the source of truth. If a cache is
//! slow, empty or down, checks read the database and stay correct.

pub mod account_cache;
mod caches;
pub mod entry;
pub mod prewarm;
pub mod reconcile;
mod refresh;
mod single_flight;
mod update_queue;
mod watched;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use self::{
    account_cache::{AccountCache, Found},
    entry::{AccountEntry, CacheEntry},
    refresh::RefreshQueue,
};
use crate::biz::{
    limits::key_quota::{KeyQuotaStore, KeyQuotas},
    settlement::accounts::Accounts,
    values::{
        cache_key::CacheKey,
        calendar::Month,
        error::{Error, Result, StoreError},
        ids::{ApiKeyId, ServiceName, UserId},
    },
};

pub use self::{
    caches::{Caches, Trust},
    watched::Watched,
};

/// Time limit of a load. Other callers may wait for the same load.
const LOAD_DEADLINE: Duration = Duration::from_secs(5);
/// Age limit of near entries under [`Trust::Always`]: it bounds the effect of a defect.
const NEAR_TTL: Duration = Duration::from_secs(600);

/// The state of one account in each cache, and in the database.
#[derive(Debug)]
pub struct Inspected {
    /// The entry of this process, with its age.
    pub near: Option<(Arc<CacheEntry>, Duration)>,
    /// The entry in Redis; `None` without Redis.
    pub shared: Option<std::result::Result<Option<Arc<CacheEntry>>, StoreError>>,
    /// Whether a change of the account waits to be sent to Redis.
    pub is_late: bool,
    /// `None` if there is no account.
    pub database: Option<AccountEntry>,
}

/// Reads accounts and API keys for checks.
pub struct ReadModel {
    caches: Arc<Caches>,
    accounts: Arc<Accounts>,
    key_quotas: Arc<dyn KeyQuotaStore>,
    refresh_queue: RefreshQueue,
    sources: Sources,
}

/// Reads since the start, by the source of the answer.
#[derive(Debug, Default)]
pub struct Sources {
    pub near: AtomicU64,
    pub shared: AtomicU64,
    pub database: AtomicU64,
}

impl Sources {
    /// The counts of memory, of the shared cache and of the database.
    pub fn counts(&self) -> [u64; 3] {
        [&self.near, &self.shared, &self.database].map(|count| count.load(Relaxed))
    }
}

/// The state that a check needs.
#[derive(Debug, Clone, Copy)]
pub struct Need<'c> {
    pub user: &'c UserId,
    pub key: Option<&'c ApiKeyId>,
    pub service: &'c ServiceName,
    pub month: Month,
}

impl Need<'_> {
    /// Whether the view has the quota of the service for the month. An account that is not open,
    /// or not open this month, lacks it.
    pub fn is_met_by(self, view: &View) -> bool {
        self.is_met_by_entry(&view.account)
    }

    fn is_met_by_entry(self, entry: &CacheEntry) -> bool {
        entry.account().is_some_and(|account| account.quota(self.month, self.service).is_some())
    }
}

/// The state that a check decides on.
#[derive(Debug, Clone)]
pub struct View {
    account: Arc<CacheEntry>,
    key: Option<Arc<CacheEntry>>,
}

impl View {
    /// # Errors
    /// [`Error::Internal`] if the cache returned an entry of another kind.
    pub fn account(&self) -> Result<&AccountEntry> {
        self.account.account().ok_or_else(|| Error::Internal("the cache returned an entry of another kind".into()))
    }

    /// The quotas of the API key, if the call has one.
    pub fn key_quotas(&self) -> Option<&KeyQuotas> {
        self.key.as_ref().and_then(|entry| entry.key_quotas())
    }
}

impl ReadModel {
    pub fn new(caches: Arc<Caches>, accounts: Arc<Accounts>, key_quotas: Arc<dyn KeyQuotaStore>) -> Self {
        Self { caches, accounts, key_quotas, refresh_queue: RefreshQueue::default(), sources: Sources::default() }
    }

    /// Looks at an account in all places, changes none of them, and opens no account.
    ///
    /// # Errors
    /// [`Error::Overloaded`], [`Error::Internal`].
    pub async fn inspect(&self, user: &UserId) -> Result<Inspected> {
        let cache_key = CacheKey::User(user.clone());
        let shared = async {
            match &self.caches.shared {
                Some(shared) => Some(shared.look(&cache_key).await.map(|found| found.map(|found| found.entry))),
                None => None,
            }
        };
        let (near, shared, database) =
            tokio::join!(self.caches.near.look(&cache_key), shared, self.accounts.find(user));
        let database = database?.map(|(account, now)| AccountEntry::new(account, now.month));
        let near = near.ok().flatten().map(|found| (found.entry, found.as_of.elapsed()));
        Ok(Inspected { near, shared, is_late: self.caches.is_late(&cache_key), database })
    }

    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// The near entries, with the conditions under which they may be used. `None` if one is
    /// missing or too old.
    pub async fn near(&self, need: Need<'_>) -> Option<(View, Trust)> {
        let account = self.look_near(&CacheKey::User(need.user.clone())).await?;
        if !need.is_met_by_entry(&account) {
            return None;
        }
        let key = match need.key {
            Some(key) => Some(self.look_near(&CacheKey::ApiKey(key.clone())).await?),
            None => None,
        };
        Some((View { account, key }, self.caches.trust))
    }

    /// Refreshes the near entries in use, without an end.
    pub async fn refresh(&self) {
        self.refresh_queue.refresh(&self.caches).await;
    }

    /// Counts a check that was answered from the near cache.
    pub fn answered_near(&self) {
        self.sources.near.fetch_add(1, Relaxed);
    }

    /// The state as committed by this process and by every process that shares the cache. Opens a
    /// new account.
    ///
    /// # Errors
    /// [`Error::Overloaded`], [`Error::Internal`].
    pub async fn read(&self, need: Need<'_>) -> Result<View> {
        let begun = Instant::now();
        let account = async {
            let cache_key = CacheKey::User(need.user.clone());
            let is_met = |account: &Arc<CacheEntry>| need.is_met_by_entry(account);
            self.find(&cache_key, begun, is_met).await
        };
        let key = async {
            let Some(key) = need.key else { return Ok(None) };
            self.find(&CacheKey::ApiKey(key.clone()), begun, |_| true).await.map(Some)
        };
        // Concurrent, so that both take one round trip.
        let (account, key) = tokio::join!(account, key);
        Ok(View { account: account?, key: key? })
    }

    /// Reads an entry from the shared cache or from the database. `is_met` decides whether an entry
    /// is enough for the check.
    async fn find(
        &self,
        cache_key: &CacheKey,
        begun: Instant,
        is_met: impl Fn(&Arc<CacheEntry>) -> bool,
    ) -> Result<Arc<CacheEntry>> {
        let looked = self.look_shared(cache_key).await;
        if let Looked::Found(entry) = &looked
            && is_met(entry)
        {
            return Ok(entry.clone());
        }
        // Another caller may have loaded the entry in the meantime.
        let loaded = self.caches.near.look(cache_key).await.ok().flatten();
        let loaded = loaded.filter(|found| found.as_of >= begun && !self.caches.is_uncertain(cache_key));
        match loaded.map(|found| found.entry).filter(&is_met) {
            Some(entry) => Ok(entry),
            None if matches!(looked, Looked::Unknown) => self.load_past_shared(cache_key).await,
            None => self.load(cache_key).await,
        }
    }

    /// Reads a cache key from the database into the caches.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn load(&self, cache_key: &CacheKey) -> Result<Arc<CacheEntry>> {
        self.load_through(cache_key, self.caches.shared.as_deref()).await
    }

    /// As [`Self::load`], without the shared cache: Redis is unavailable, or it has not applied a
    /// waiting change yet.
    async fn load_past_shared(&self, cache_key: &CacheKey) -> Result<Arc<CacheEntry>> {
        self.load_through(cache_key, None).await
    }

    async fn load_through(&self, cache_key: &CacheKey, shared: Option<&dyn AccountCache>) -> Result<Arc<CacheEntry>> {
        let load = async {
            let load = async {
                match self.caches.is_uncertain(cache_key) {
                    true => self.read_database(cache_key).await,
                    false => self.load_alone(cache_key, shared).await,
                }
            };
            let late = |_| Err(Error::Overloaded("the database did not answer in time; retry later".into()));
            tokio::time::timeout(LOAD_DEADLINE, load).await.unwrap_or_else(late)
        };
        self.caches.loads.once(cache_key, load).await
    }

    async fn load_alone(&self, cache_key: &CacheKey, cache: Option<&dyn AccountCache>) -> Result<Arc<CacheEntry>> {
        // A cache that is down must not fail the read.
        let near = self.caches.near.fence(cache_key).await.ok();
        let shared = match cache {
            Some(shared) => shared.fence(cache_key).await.ok(),
            None => None,
        };
        let as_of = Instant::now();
        let entry = self.read_database(cache_key).await?;
        let found = Found { entry, as_of };
        if let (Some(fence), Some(cache)) = (shared, cache) {
            let _ = cache.store(fence, found.clone()).await;
        }
        if let Some(fence) = near {
            let _ = self.caches.near.store(fence, found.clone()).await;
        }
        Ok(found.entry)
    }

    async fn read_database(&self, cache_key: &CacheKey) -> Result<Arc<CacheEntry>> {
        self.sources.database.fetch_add(1, Relaxed);
        Ok(Arc::new(match cache_key {
            CacheKey::User(user) => {
                let (account, now) = self.accounts.get(user).await?;
                CacheEntry::Account(user.clone(), AccountEntry::new(account, now.month))
            }
            CacheKey::ApiKey(key) => CacheEntry::ApiKey(key.clone(), self.key_quotas.key_quotas(key).await?),
        }))
    }

    async fn look_near(&self, cache_key: &CacheKey) -> Option<Arc<CacheEntry>> {
        if self.caches.is_uncertain(cache_key) {
            return None;
        }
        let found = self.caches.near.look(cache_key).await.ok().flatten()?;
        match self.caches.trust {
            Trust::Always => (found.as_of.elapsed() < NEAR_TTL).then_some(found.entry),
            Trust::WhileFar(limit) => {
                let age = found.as_of.elapsed();
                if age * 2 > limit && self.caches.shared.is_some() {
                    self.refresh_queue.add(cache_key);
                }
                (age <= limit).then_some(found.entry)
            }
        }
    }

    /// Reads an entry from the shared cache into the near cache.
    ///
    /// The near fence is set before the update queue is asked. A change that is committed after
    /// the fence revokes it. A change that was committed before is in the shared cache, or still
    /// in the queue.
    async fn look_shared(&self, cache_key: &CacheKey) -> Looked {
        let Some(shared) = &self.caches.shared else { return Looked::Unknown };
        let fence = self.caches.near.fence(cache_key).await.ok();
        if self.caches.is_late(cache_key) || self.caches.is_uncertain(cache_key) {
            return Looked::Unknown;
        }
        let as_of = Instant::now();
        let found = match shared.look(cache_key).await {
            Ok(Some(found)) => found,
            Ok(None) => return Looked::Absent,
            Err(_) => return Looked::Unknown,
        };
        self.sources.shared.fetch_add(1, Relaxed);
        if let Some(fence) = fence {
            let _ = self.caches.near.store(fence, Found { as_of, ..found.clone() }).await;
        }
        Looked::Found(found.entry)
    }
}

/// The answer of the shared cache.
enum Looked {
    Found(Arc<CacheEntry>),
    Absent,
    /// The shared cache is unavailable, or its entry may be older than a commit of this process.
    Unknown,
}
