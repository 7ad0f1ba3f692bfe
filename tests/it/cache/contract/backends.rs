//! The caches. The tests of this process share the Redis servers.

use std::{sync::Arc, time::Duration};

use billing_service::{
    biz::{
        check::cache::{
            account_cache::{AccountCache, Fence, Found},
            entry::CacheEntry,
        },
        settlement::change::Change,
        values::cache_key::CacheKey,
    },
    data::{
        memory::MemoryCache,
        redis::{RedisCache, RedisLayout, RedisSettings},
    },
};
use tokio::{
    sync::{OnceCell, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Instant,
};

pub use self::Backend::{Cluster, Memory, Redis, Sentinel};
use crate::harness::{
    redis::{OwnCluster, OwnRedis, OwnSentinel},
    wait::until,
};

/// The store of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    Memory,
    Redis,
    Cluster,
    Sentinel,
}

/// Longer than any test needs an entry.
const TTL: Duration = Duration::from_secs(600);
/// Long, so that a busy machine does not look like an outage.
const TIMEOUT: Duration = Duration::from_secs(20);

static SINGLE: OnceCell<OwnRedis> = OnceCell::const_new();
static CLUSTER: OnceCell<OwnCluster> = OnceCell::const_new();
static SENTINEL: OnceCell<OwnSentinel> = OnceCell::const_new();
/// One lock for each server: a test that empties the server holds it exclusively.
static TURNS: [RwLock<()>; 3] = [const { RwLock::const_new(()) }; 3];

#[expect(dead_code, reason = "held until the test ends")]
enum Turn {
    Own,
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

/// The caches of two processes on one server. In memory, both are the same cache.
pub struct Caches {
    backend: Backend,
    pub one: Arc<dyn AccountCache>,
    pub other: Arc<dyn AccountCache>,
    _turn: Turn,
}

impl Caches {
    /// Shares the server with other tests.
    pub async fn start(backend: Backend) -> Self {
        Self::start_with(backend, TTL).await
    }

    pub async fn start_with(backend: Backend, ttl: Duration) -> Self {
        prepare(backend).await;
        let turn = match turn_of(backend) {
            Some(lock) => Turn::Shared(lock.read().await),
            None => Turn::Own,
        };
        Self::on(backend, ttl, turn).await
    }

    /// Waits until no other test uses the server, and keeps it until the test ends.
    pub async fn start_alone(backend: Backend) -> Self {
        prepare(backend).await;
        let turn = match turn_of(backend) {
            Some(lock) => Turn::Alone(lock.write().await),
            None => Turn::Own,
        };
        Self::on(backend, TTL, turn).await
    }

    async fn on(backend: Backend, ttl: Duration, turn: Turn) -> Self {
        let (one, other): (Arc<dyn AccountCache>, Arc<dyn AccountCache>) = match settings(backend, ttl) {
            Some(_) => (connect(backend, ttl).await, connect(backend, ttl).await),
            None => {
                let memory = Arc::new(MemoryCache::new(10_000));
                (memory.clone(), memory)
            }
        };
        Self { backend, one, other, _turn: turn }
    }

    /// Flushes the server, or clears the memory. Needs [`Self::start_alone`].
    pub async fn flush(&self) {
        match self.backend {
            Memory => self.one.clear().await.unwrap(),
            Redis => SINGLE.get().unwrap().flushall().await,
            Cluster => CLUSTER.get().unwrap().flushall().await,
            Sentinel => SENTINEL.get().unwrap().master().flushall().await,
        }
        if self.backend != Memory {
            // Sets the marker again. Otherwise a later connection would find it missing, and flush the server.
            drop(connect(self.backend, TTL).await);
        }
    }

    /// Removes the scripts from the server. Needs [`Self::start_alone`].
    pub async fn forget_scripts(&self) {
        match self.backend {
            Memory => {}
            Redis => SINGLE.get().unwrap().script_flush().await,
            Cluster => CLUSTER.get().unwrap().script_flush().await,
            Sentinel => SENTINEL.get().unwrap().master().script_flush().await,
        }
    }

    pub async fn fence(&self, cache_key: &CacheKey) -> Fence {
        self.one.fence(cache_key).await.unwrap()
    }

    /// Stores an entry that was read after the fence.
    pub async fn store(&self, fence: Fence, entry: &CacheEntry) {
        store(&*self.one, fence, entry).await;
    }

    /// Loads an entry without a concurrent change.
    pub async fn load(&self, entry: &CacheEntry) {
        let fence = self.fence(&entry.cache_key()).await;
        self.store(fence, entry).await;
    }

    pub async fn apply(&self, changes: &[Change]) {
        assert_eq!(self.one.apply(changes).await, vec![]);
    }

    /// The entry that both processes find.
    pub async fn look(&self, cache_key: &CacheKey) -> Option<CacheEntry> {
        let found = look(&*self.one, cache_key).await;
        assert_eq!(look(&*self.other, cache_key).await, found);
        found
    }
}

pub async fn store(cache: &dyn AccountCache, fence: Fence, entry: &CacheEntry) {
    let found = Found { entry: Arc::new(entry.clone()), as_of: Instant::now().into_std() };
    cache.store(fence, found).await.unwrap();
}

pub async fn look(cache: &dyn AccountCache, cache_key: &CacheKey) -> Option<CacheEntry> {
    cache.look(cache_key).await.unwrap().map(|found| (*found.entry).clone())
}

/// A connected cache in Redis.
pub async fn connect_to(settings: RedisSettings) -> Arc<RedisCache> {
    let cache = Arc::new(RedisCache::start(settings, Box::new(|_, _| {})));
    until("the cache is connected", async || cache.is_up()).await;
    cache
}

/// Settings for servers at these addresses.
pub fn settings_of(layout: RedisLayout, addrs: Vec<String>, ttl: Duration) -> RedisSettings {
    let (username, password, db) = Default::default();
    RedisSettings {
        database: uuid::Uuid::nil(),
        layout,
        addrs,
        username,
        password,
        tls: None,
        db,
        check_timeout: TIMEOUT,
        write_timeout: TIMEOUT,
        keeps: true,
        ttl,
    }
}

/// A cache connected to the shared servers.
pub async fn connect(backend: Backend, ttl: Duration) -> Arc<RedisCache> {
    connect_to(settings(backend, ttl).unwrap()).await
}

fn settings(backend: Backend, ttl: Duration) -> Option<RedisSettings> {
    Some(match backend {
        Memory => return None,
        Redis => settings_of(RedisLayout::Single, vec![SINGLE.get()?.addr()], ttl),
        Cluster => settings_of(RedisLayout::Cluster, CLUSTER.get()?.addrs(), ttl),
        Sentinel => {
            let servers = SENTINEL.get()?;
            let master = servers.master_name().to_owned();
            settings_of(RedisLayout::Sentinel { master }, servers.sentinel_addrs(), ttl)
        }
    })
}

fn turn_of(backend: Backend) -> Option<&'static RwLock<()>> {
    match backend {
        Memory => None,
        Redis => Some(&TURNS[0]),
        Cluster => Some(&TURNS[1]),
        Sentinel => Some(&TURNS[2]),
    }
}

/// Starts the servers, once. The first connection flushes them. This must not happen while a
/// test uses them.
pub async fn prepare(backend: Backend) {
    match backend {
        Memory => {}
        Redis => {
            let start = async || {
                let server = OwnRedis::start().await;
                drop(connect_to(settings_of(RedisLayout::Single, vec![server.addr()], TTL)).await);
                server
            };
            SINGLE.get_or_init(start).await;
        }
        Cluster => {
            let start = async || {
                let servers = OwnCluster::start().await;
                drop(connect_to(settings_of(RedisLayout::Cluster, servers.addrs(), TTL)).await);
                servers
            };
            CLUSTER.get_or_init(start).await;
        }
        Sentinel => {
            let start = async || {
                let servers = OwnSentinel::start().await;
                let layout = RedisLayout::Sentinel { master: servers.master_name().to_owned() };
                drop(connect_to(settings_of(layout, servers.sentinel_addrs(), TTL)).await);
                servers
            };
            SENTINEL.get_or_init(start).await;
        }
    }
}
