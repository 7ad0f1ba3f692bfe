//! The rate limiter of one process. It keeps the levels of the buckets of each user and API key
//! until they are empty, for a bounded number of cache keys.
//!
//! Cache keys are spread over shards, each with its own lock. A request of a user and an API key
//! locks both shards, the lower one first, so that the request counts for both or for none.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;

use crate::biz::{
    limits::rate_limit::{Level, RateLimiter, RateLimits},
    values::{
        cache_key::CacheKey,
        calendar::Clock,
        error::StoreError,
        ids::{ApiKeyId, UserId},
    },
};

/// Most cache keys in memory. One takes about 250 bytes.
const CACHE_KEYS: usize = 100_000;
const SHARDS: usize = 16;

/// Most idle cache keys that a request removes. More than one, so that idle keys go faster than
/// new ones come.
const REMOVED_AT_ONCE: usize = 2;

/// The limiter; see the module.
pub struct MemoryRateLimiter {
    limits: RateLimits,
    shards: Vec<Mutex<BucketShard>>,
    hasher: RandomState,
    clock: Arc<dyn Clock>,
    started: Instant,
}

/// The buckets of a part of the cache keys.
struct BucketShard {
    room: usize,
    cache_keys: HashMap<CacheKey, Bucket>,
    /// Cache keys by their last request, including refused ones; the longest idle first.
    by_use: BTreeMap<u64, CacheKey>,
    uses: u64,
}

struct Bucket {
    level: Level,
    used: u64,
}

impl MemoryRateLimiter {
    pub fn new(limits: RateLimits, clock: Arc<dyn Clock>) -> Self {
        Self::with_room(limits, clock, CACHE_KEYS)
    }

    fn with_room(limits: RateLimits, clock: Arc<dyn Clock>, cache_keys: usize) -> Self {
        Self {
            limits,
            shards: (0..SHARDS).map(|_| Mutex::new(BucketShard::new(cache_keys.div_ceil(SHARDS)))).collect(),
            hasher: RandomState::new(),
            started: clock.instant(),
            clock,
        }
    }

    fn count(&self, cache_keys: Vec<CacheKey>) -> Option<Duration> {
        let cache_keys: Vec<(usize, CacheKey)> =
            cache_keys.into_iter().map(|cache_key| (self.index(&cache_key), cache_key)).collect();
        let indices: BTreeSet<usize> = cache_keys.iter().map(|(index, _)| *index).collect();
        let mut shards: BTreeMap<usize, MutexGuard<'_, BucketShard>> =
            indices.into_iter().map(|index| (index, lock(&self.shards[index]))).collect();
        // Read under the locks, so that time never goes back for a cache key.
        let now = self.clock.instant().saturating_duration_since(self.started);
        let taken: Vec<Result<Level, Duration>> = cache_keys
            .iter()
            .map(|(index, cache_key)| self.limits.of(cache_key).take(shards[index].level(cache_key), now))
            .collect();
        let wait = taken.iter().filter_map(|taken| taken.err()).max();
        for ((index, cache_key), taken) in cache_keys.into_iter().zip(taken) {
            if let Some(shard) = shards.get_mut(&index) {
                match taken {
                    Ok(level) if wait.is_none() => shard.put(cache_key, level),
                    _ => shard.touch(&cache_key),
                }
                shard.remove_idle(&self.limits, now);
            }
        }
        wait
    }

    fn index(&self, cache_key: &CacheKey) -> usize {
        // The remainder is below SHARDS.
        (self.hasher.hash_one(cache_key) % SHARDS as u64) as usize
    }
}

#[async_trait]
impl RateLimiter for MemoryRateLimiter {
    async fn take(&self, user: &UserId, key: Option<&ApiKeyId>) -> Result<Option<Duration>, StoreError> {
        Ok(self.count(self.limits.cache_keys(user, key)))
    }
}

impl BucketShard {
    fn new(room: usize) -> Self {
        Self { room, cache_keys: HashMap::new(), by_use: BTreeMap::new(), uses: 0 }
    }

    fn level(&self, cache_key: &CacheKey) -> Level {
        self.cache_keys.get(cache_key).map_or_else(Level::default, |entry| entry.level)
    }

    /// Keeps a level. If the shard is full, the longest idle cache key is removed.
    fn put(&mut self, cache_key: CacheKey, level: Level) {
        if !self.cache_keys.contains_key(&cache_key) && self.cache_keys.len() >= self.room {
            self.remove_first();
        }
        self.uses += 1;
        if let Some(before) = self.cache_keys.insert(cache_key.clone(), Bucket { level, used: self.uses }) {
            self.by_use.remove(&before.used);
        }
        self.by_use.insert(self.uses, cache_key);
    }

    /// Marks a cache key as used by a refused request. Otherwise a client that keeps asking could
    /// have its bucket removed as idle.
    fn touch(&mut self, cache_key: &CacheKey) {
        if let Some(entry) = self.cache_keys.get(cache_key) {
            self.put(cache_key.clone(), entry.level);
        }
    }

    /// Removes the longest idle cache keys whose buckets are empty.
    fn remove_idle(&mut self, limits: &RateLimits, now: Duration) {
        for _ in 0..REMOVED_AT_ONCE {
            let first = self.by_use.first_key_value().map(|(_, cache_key)| cache_key);
            if !first.is_some_and(|cache_key| limits.of(cache_key).has_run_out(self.level(cache_key), now)) {
                break;
            }
            self.remove_first();
        }
    }

    fn remove_first(&mut self) {
        if let Some((_, cache_key)) = self.by_use.pop_first() {
            self.cache_keys.remove(&cache_key);
        }
    }
}

fn lock(shard: &Mutex<BucketShard>) -> MutexGuard<'_, BucketShard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use chrono::{DateTime, Utc};

    use super::*;
    use crate::biz::limits::rate_limit::Rates;

    /// A clock that a test moves, in milliseconds.
    struct Hand(Instant, AtomicU64);

    impl Clock for Hand {
        fn now(&self) -> DateTime<Utc> {
            Utc::now()
        }

        fn instant(&self) -> Instant {
            self.0 + Duration::from_millis(self.1.load(Ordering::Relaxed))
        }
    }

    struct Limiter {
        limiter: MemoryRateLimiter,
        clock: Arc<Hand>,
    }

    impl Limiter {
        fn new(user: u32, api_key: u32, room: usize) -> Self {
            let clock = Arc::new(Hand(Instant::now(), AtomicU64::new(0)));
            let minute = |limit: u32| Rates { minute: limit.try_into().ok(), ..Rates::default() };
            let limits = RateLimits { user: minute(user), api_key: minute(api_key) };
            Self { limiter: MemoryRateLimiter::with_room(limits, clock.clone(), room), clock }
        }

        async fn seconds(&self, user: &str, key: Option<&str>) -> Option<u64> {
            let key = key.map(ApiKeyId::from_stored);
            let wait = self.limiter.take(&UserId::from_stored(user), key.as_ref()).await.unwrap();
            wait.map(|wait| wait.as_secs())
        }

        fn remembered(&self) -> usize {
            let shards = self.limiter.shards.iter();
            shards
                .map(|shard| {
                    let shard = lock(shard);
                    assert_eq!(shard.cache_keys.len(), shard.by_use.len());
                    shard.cache_keys.len()
                })
                .sum()
        }
    }

    #[tokio::test]
    async fn a_request_counts_for_both_user_and_key_or_for_none() {
        let limiter = Limiter::new(2, 3, 100);
        assert_eq!(limiter.seconds("u", Some("k")).await, None);
        assert_eq!(limiter.seconds("u", Some("k")).await, None);
        // Refused by the user's limit, so the API key has one request left.
        assert_eq!(limiter.seconds("u", Some("k")).await, Some(30));
        assert_eq!(limiter.seconds("another", Some("k")).await, None);
        // Refused by the API key's limit, so this user has one request left.
        assert_eq!(limiter.seconds("another", Some("k")).await, Some(20));
        assert_eq!(limiter.seconds("another", None).await, None);
        assert_eq!(limiter.seconds("another", Some("k")).await, Some(30));
        limiter.clock.1.store(20_000, Ordering::Relaxed);
        assert_eq!(limiter.seconds("third", Some("k")).await, None);
    }

    #[tokio::test]
    async fn empty_buckets_are_removed() {
        let limiter = Limiter::new(1, 0, 100_000);
        for user in 0..1_000 {
            limiter.seconds(&format!("u{user}"), Some("k")).await;
        }
        assert_eq!(limiter.remembered(), 1_000);
        limiter.clock.1.store(60_000, Ordering::Relaxed);
        for user in 0..1_000 {
            limiter.seconds(&format!("v{user}"), None).await;
        }
        assert!((1_000..1_100).contains(&limiter.remembered()), "{}", limiter.remembered());
    }

    #[tokio::test]
    async fn the_longest_idle_bucket_is_removed_first() {
        let limiter = Limiter::new(1, 0, 160);
        limiter.seconds("busy", None).await;
        limiter.seconds("idle", None).await;
        for user in 0..10_000 {
            limiter.seconds(&format!("u{user}"), None).await;
            assert!(limiter.seconds("busy", None).await.is_some());
        }
        assert_eq!(limiter.remembered(), 160);
        assert_eq!(limiter.seconds("idle", None).await, None);
    }

    #[test]
    fn many_threads_together_keep_the_limit() {
        let limiter = Limiter::new(1_000, 700, 100);
        let cache_keys = |user: &str| {
            let (user, key) = (UserId::from_stored(user), ApiKeyId::from_stored("k"));
            limiter.limiter.limits.cache_keys(&user, Some(&key))
        };
        let admitted = |user: &str| (0..500).filter(|_| limiter.limiter.count(cache_keys(user)).is_none()).count();
        let admitted: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = ["a", "b", "c", "a"].map(|user| scope.spawn(move || admitted(user))).into();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(admitted, 700);
    }
}
