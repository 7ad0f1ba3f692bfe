//! Compares the shared cache with the database and repairs it. A difference is a defect; the
//! comparison proves that there is none, and is the last means to remove one.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use backon::{BackoffBuilder, ExponentialBuilder};
use futures_util::future::join_all;

use super::{
    account_cache::AccountCache,
    entry::{AccountEntry, CacheEntry},
};
use crate::biz::{
    account::{Account, AccountStore, Quota},
    limits::{
        caps::Requests,
        key_quota::{KeyQuotaStore, KeyQuotas},
    },
    values::{
        cache_key::CacheKey,
        calendar::{Calendar, Month},
        error::StoreError,
        money::Money,
    },
};

/// A shared cache whose entries can be listed, and that keeps the last difference for all
/// processes.
#[async_trait]
pub trait SharedCache: AccountCache {
    /// One page of the cache keys that have entries, and the position of the next page, if any.
    /// `from` is such a position; `None` starts at the beginning. An entry that exists during the
    /// whole scan is returned at least once.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn scan(&self, from: Option<String>) -> Result<(Vec<CacheKey>, Option<String>), StoreError>;

    /// Saves the difference that a comparison found.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn keep_difference(&self, difference: Distance) -> Result<(), StoreError>;

    /// The difference that the last comparison found; `None` before the first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn difference(&self) -> Result<Option<Distance>, StoreError>;
}

/// Entries compared concurrently.
const CONCURRENT_READS: usize = 16;
/// Reads of a differing entry. An entry that is only late has caught up by then.
const READS: usize = 5;
/// Pauses between two reads.
const BACKOFF: ExponentialBuilder =
    ExponentialBuilder::new().with_min_delay(Duration::from_millis(20)).with_max_times(READS - 1).with_jitter();
/// Most differences that are reported in full.
const MAX_REPORTED: usize = 100;

/// An entry that differs from the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheDifference {
    pub cache_key: CacheKey,
    pub by: Distance,
    pub cached: String,
    pub stored: String,
}

/// The distance of two states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Distance {
    /// Sum of the differences of balance and held amount.
    pub amount: Money,
    /// Sum of the differences of quotas, counted calls and limits; a status counts as one.
    pub units: u64,
}

impl fmt::Display for CacheDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cache_key, by, cached, stored } = self;
        write!(f, "{cache_key:?}: {} and {} units: cached {cached}, stored {stored}", by.amount, by.units)
    }
}

/// The result of a comparison.
#[derive(Debug, Default)]
pub struct ReconciledCache {
    pub compared: u64,
    pub differing: u64,
    /// Differing entries that were dropped from the cache.
    pub repaired: u64,
    pub by: Distance,
    /// The first differences.
    pub differences: Vec<CacheDifference>,
}

/// Compares entries with the database.
pub struct Reconciler {
    pub cache: Arc<dyn SharedCache>,
    pub accounts: Arc<dyn AccountStore>,
    pub key_quotas: Arc<dyn KeyQuotaStore>,
    pub calendar: Arc<Calendar>,
}

impl Reconciler {
    /// Compares all entries. With `repairs`, drops the entries that differ and saves the sum of
    /// the differences for the metric.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if the cache or the database is down; [`StoreError::Failed`].
    pub async fn run(&self, repairs: bool) -> Result<ReconciledCache, StoreError> {
        let (mut all, mut from) = (ReconciledCache::default(), None);
        loop {
            let (cache_keys, next) = self.cache.scan(from).await?;
            let mut wrong = Vec::new();
            for some in cache_keys.chunks(CONCURRENT_READS) {
                for difference in join_all(some.iter().map(|cache_key| self.compare(cache_key))).await {
                    all.compared += 1;
                    wrong.extend(difference?);
                }
            }
            let cache_keys: Vec<CacheKey> = wrong.iter().map(|difference| difference.cache_key.clone()).collect();
            if repairs && !cache_keys.is_empty() {
                let left = self.cache.forget(&cache_keys).await;
                all.repaired += (cache_keys.len() - left.len()) as u64;
            }
            for difference in wrong {
                all.differing += 1;
                all.by.amount = all.by.amount.plus(difference.by.amount);
                all.by.units += difference.by.units;
                if all.differences.len() < MAX_REPORTED {
                    all.differences.push(difference);
                }
            }
            match next {
                Some(next) => from = Some(next),
                None => break,
            }
        }
        if repairs {
            self.cache.keep_difference(all.by).await?;
        }
        Ok(all)
    }

    /// An entry differs if the cache does not catch up: all reads return the same entry, and each
    /// differs from the database read after it.
    async fn compare(&self, cache_key: &CacheKey) -> Result<Option<CacheDifference>, StoreError> {
        let (mut first, mut pauses) = (None, BACKOFF.build());
        loop {
            let cached = match self.cache.look(cache_key).await {
                Ok(Some(cached)) => cached,
                Ok(None) => return Ok(None),
                Err(StoreError::Failed(why)) => return Ok(Some(self.unreadable(cache_key, why).await?)),
                Err(error) => return Err(error),
            };
            let stored = self.stored(cache_key).await?;
            let by = distance(&cached.entry, stored.as_ref(), self.calendar.now().month);
            if by == Distance::default()
                && stored.as_ref().is_some_and(|stored| stored.version() == cached.entry.version())
            {
                return Ok(None);
            }
            let first = first.get_or_insert_with(|| cached.entry.clone());
            if *first != cached.entry {
                // The entry changes, so updates do reach the cache.
                return Ok(None);
            }
            let Some(pause) = pauses.next() else {
                let (cached, stored) = (text(Some(&*cached.entry)), text(stored.as_ref()));
                return Ok(Some(CacheDifference { cache_key: cache_key.clone(), by, cached, stored }));
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// The difference of an entry that can't be parsed. Its distance is unknown and counts as one
    /// unit.
    async fn unreadable(&self, cache_key: &CacheKey, why: String) -> Result<CacheDifference, StoreError> {
        let by = Distance { units: 1, ..Default::default() };
        let stored = text(self.stored(cache_key).await?.as_ref());
        Ok(CacheDifference { cache_key: cache_key.clone(), by, cached: why, stored })
    }

    async fn stored(&self, cache_key: &CacheKey) -> Result<Option<CacheEntry>, StoreError> {
        Ok(match cache_key {
            CacheKey::User(user) => {
                let month = self.calendar.now().month;
                let account = self.accounts.account(user, month).await?;
                account.map(|account: Account| CacheEntry::Account(user.clone(), AccountEntry::new(account, month)))
            }
            CacheKey::ApiKey(key) => Some(CacheEntry::ApiKey(key.clone(), self.key_quotas.key_quotas(key).await?)),
        })
    }
}

fn text(entry: Option<&CacheEntry>) -> String {
    entry.map_or_else(|| "nothing".into(), |entry| format!("{} {entry:?}", entry.version()))
}

/// Compares the quotas of `month` that the cached entry has; it may lack some.
fn distance(cached: &CacheEntry, stored: Option<&CacheEntry>, month: Month) -> Distance {
    match (cached, stored) {
        (CacheEntry::Account(_, cached), Some(CacheEntry::Account(_, stored))) => {
            account_distance(cached, stored, month)
        }
        (CacheEntry::ApiKey(_, cached), Some(CacheEntry::ApiKey(_, stored))) => {
            Distance { units: key_distance(cached, stored), ..Default::default() }
        }
        _ => Distance { units: 1, ..Default::default() },
    }
}

fn account_distance(cached: &AccountEntry, stored: &AccountEntry, month: Month) -> Distance {
    let amount = |one: Money, other: Money| Money::from_micros(one.micros().abs_diff(other.micros()).cast_signed());
    let amounts = amount(cached.balance.amount, stored.balance.amount);
    let held = amount(cached.balance.held, stored.balance.held);
    let quotas = cached.quotas.iter().filter(|((of, _), _)| *of == month);
    let units = quotas.map(|(key, cached)| {
        let stored = stored.quotas.get(key).copied().unwrap_or_default();
        let difference = |of: fn(&Quota) -> u64| of(cached).abs_diff(of(&stored));
        difference(|quota| quota.total) + difference(|quota| quota.used) + difference(|quota| quota.held)
    });
    let status = u64::from(cached.balance.status != stored.balance.status);
    let units = units.sum::<u64>() + status + requests_distance(cached.requests.as_ref(), stored.requests.as_ref());
    Distance { amount: amounts.plus(held), units }
}

fn requests_distance(cached: Option<&Requests>, stored: Option<&Requests>) -> u64 {
    match (cached, stored) {
        (None, None) => 0,
        (Some(cached), Some(stored)) if cached == stored => 0,
        (Some(cached), Some(stored)) => {
            let counted = cached.daily.abs_diff(stored.daily) + cached.monthly.abs_diff(stored.monthly);
            u64::from(counted).max(1)
        }
        _ => 1,
    }
}

fn key_distance(cached: &KeyQuotas, stored: &KeyQuotas) -> u64 {
    let kinds = cached.keys().chain(stored.keys().filter(|row| !cached.contains_key(*row)));
    let distances = kinds.map(|row| match (cached.get(row), stored.get(row)) {
        (Some(one), Some(other)) if one == other => 0,
        (Some(one), Some(other)) => one.taken.of(one.period).abs_diff(other.taken.of(other.period)).max(1),
        _ => 1,
    });
    distances.sum()
}
