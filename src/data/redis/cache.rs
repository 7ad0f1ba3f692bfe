//! [`AccountCache`] in Redis.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use redis::Value;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    RedisSettings, ScriptTimes,
    batch::CommandBatch,
    hash,
    keys::{self, Keys},
    link::{Link, Refusal},
    node::{self, text, unavailable},
    scripts::{self, Named},
    topology::Topology,
};
use crate::biz::{
    check::cache::{
        account_cache::{AccountCache, Fence, Found},
        entry::CacheEntry,
        reconcile::{Distance, SharedCache},
    },
    settlement::change::Change,
    values::{cache_key::CacheKey, error::StoreError},
};

/// Lifetime of a fence in milliseconds. A slower load does not store its entry.
const FENCE_MS: u64 = 10_000;

/// The shared cache in Redis.
pub struct RedisCache {
    settings: Arc<RedisSettings>,
    pub(super) keys: Keys,
    topology: Topology,
    times: ScriptTimes,
    cold: Arc<Notify>,
    stop: CancellationToken,
}

impl RedisCache {
    /// Starts to connect in the background. The cache stays connected until it is dropped.
    pub fn start(settings: RedisSettings, times: ScriptTimes) -> Self {
        let (settings, cold, stop) = (Arc::new(settings), Arc::new(Notify::new()), CancellationToken::new());
        let topology = Topology::start(settings.clone(), cold.clone(), stop.clone());
        Self { keys: Keys::of(settings.database), settings, topology, times, cold, stop }
    }

    /// Completes when this process finds that a server has lost its entries.
    pub async fn found_cold(&self) {
        self.cold.notified().await;
    }

    /// Whether every known server is connected.
    pub fn is_up(&self) -> bool {
        let nodes = self.topology.nodes();
        !nodes.is_empty() && nodes.iter().all(|node| node.link().is_ok())
    }

    fn link_of(&self, key: &str) -> Result<Arc<Link>, StoreError> {
        self.topology.node_of(key)?.link()
    }

    pub(super) async fn run(&self, script: &Named, keys: &[&str], arguments: &[String]) -> Result<Value, StoreError> {
        let link = self.link_of(keys.first().copied().unwrap_or_default())?;
        let mut call = script.call(keys);
        call.arg(arguments);
        let started = Instant::now();
        let answer = match script.is_awaited {
            true => link.call_awaited(&call, self.settings.check_timeout).await,
            false => link.call(&call, self.settings.write_timeout).await,
        };
        (self.times)(script.name, started.elapsed());
        answer.map_err(|(refusal, error)| {
            if refusal == Refusal::Moved {
                self.topology.has_moved();
            }
            error
        })
    }

    /// TTL of an entry, shortened by up to a tenth, so that entries do not all expire at once.
    fn ttl_ms(&self) -> u64 {
        let ttl = self.settings.ttl.as_millis() as u64;
        // The last bits of a random id select the part of the tenth.
        ttl - (Uuid::now_v7().as_u128() % 1_024) as u64 * (ttl / 10) / 1_024
    }
}

#[async_trait]
impl AccountCache for RedisCache {
    async fn look(&self, cache_key: &CacheKey) -> Result<Option<Found>, StoreError> {
        let as_of = Instant::now();
        let answer = self.run(&scripts::CHECK, &[&self.keys.hash(cache_key)], &[]).await?;
        Ok(hash::entry(cache_key, &answer)?.map(|entry| Found { entry: Arc::new(entry), as_of }))
    }

    async fn look_all(&self, cache_keys: &[CacheKey]) -> Result<Vec<Option<Arc<CacheEntry>>>, StoreError> {
        let (started, mut batch) = (Instant::now(), CommandBatch::default());
        for cache_key in cache_keys {
            let key = self.keys.hash(cache_key);
            batch.add(&self.topology, cache_key.clone(), &key, scripts::CHECK.call(&[&key]));
        }
        let mut found: HashMap<CacheKey, Arc<CacheEntry>> = HashMap::new();
        for (cache_key, answer) in batch.send(&self.topology, self.settings.write_timeout).await.answers {
            if let Ok(Some(entry)) = hash::entry(&cache_key, &answer) {
                found.insert(cache_key, Arc::new(entry));
            }
        }
        (self.times)(scripts::CHECK.name, started.elapsed());
        Ok(cache_keys.iter().map(|cache_key| found.remove(cache_key)).collect())
    }

    async fn fence(&self, cache_key: &CacheKey) -> Result<Fence, StoreError> {
        let fence = Fence(Uuid::now_v7().as_u128());
        let key = keys::fence(&self.keys.hash(cache_key));
        let link = self.link_of(&key)?;
        let mut set = redis::cmd("SET");
        set.arg(key).arg(token(fence)).arg("PX").arg(FENCE_MS);
        link.call(&set, self.settings.check_timeout).await.map_err(|(_, error)| error)?;
        Ok(fence)
    }

    async fn store(&self, fence: Fence, found: Found) -> Result<(), StoreError> {
        let key = self.keys.hash(&found.entry.cache_key());
        let mut arguments = vec![token(fence), found.entry.version().to_string(), self.ttl_ms().to_string()];
        arguments.extend(hash::fields(&found.entry).into_iter().flat_map(<[String; 2]>::from));
        self.run(&scripts::LOAD, &[&key, &keys::fence(&key)], &arguments).await.map(|_| ())
    }

    async fn apply(&self, changes: &[Change]) -> Vec<CacheKey> {
        let (started, mut batch) = (Instant::now(), CommandBatch::default());
        for change in changes {
            let cache_key = change.cache_key();
            let key = self.keys.hash(&cache_key);
            let mut call = scripts::DEDUCT.call(&[&key, &keys::fence(&key)]);
            call.arg(change.before().to_string()).arg(change.after().to_string());
            for (field, value) in hash::changed_fields(change) {
                call.arg(field).arg(value);
            }
            batch.add(&self.topology, cache_key, &key, call);
        }
        let failed = batch.send(&self.topology, self.settings.write_timeout).await.failed;
        (self.times)(scripts::DEDUCT.name, started.elapsed());
        failed
    }

    async fn forget(&self, cache_keys: &[CacheKey]) -> Vec<CacheKey> {
        let mut batch = CommandBatch::default();
        for cache_key in cache_keys {
            let key = self.keys.hash(cache_key);
            let mut unlink = redis::cmd("UNLINK");
            unlink.arg(&key).arg(keys::fence(&key));
            batch.add(&self.topology, cache_key.clone(), &key, unlink);
        }
        batch.send(&self.topology, self.settings.write_timeout).await.failed
    }

    async fn clear(&self) -> Result<(), StoreError> {
        let nodes = self.topology.nodes();
        if nodes.is_empty() {
            return Err(unavailable("no redis node is known"));
        }
        for node in nodes {
            node::purge(&*node.link()?, &self.keys, self.settings.write_timeout.max(Duration::from_secs(1))).await?;
        }
        Ok(())
    }
}

/// Scans node by node, in the order of their addresses. A position is the number of a node and
/// its SCAN cursor.
#[async_trait]
impl SharedCache for RedisCache {
    async fn scan(&self, from: Option<String>) -> Result<(Vec<CacheKey>, Option<String>), StoreError> {
        let nodes = self.topology.nodes();
        let (number, cursor) = match from.as_deref().and_then(|from| from.split_once(' ')) {
            Some((number, cursor)) => (number.parse().unwrap_or(0), cursor),
            None => (0, "0"),
        };
        let node = nodes.get(number).ok_or_else(|| unavailable("no redis node is known"))?;
        let (next, found) =
            node::scan(&*node.link()?, &self.keys.hashes(), cursor, self.settings.write_timeout).await?;
        let cache_keys = found.iter().filter_map(|key| self.keys.cache_key_of(key)).collect();
        let next = match (next.as_str(), number + 1 < nodes.len()) {
            ("0", true) => Some(format!("{} 0", number + 1)),
            ("0", false) => None,
            (cursor, _) => Some(format!("{number} {cursor}")),
        };
        Ok((cache_keys, next))
    }

    async fn keep_difference(&self, difference: Distance) -> Result<(), StoreError> {
        let (key, mut set) = (self.keys.difference(), redis::cmd("SET"));
        set.arg(&key).arg(format!("{} {}", difference.amount, difference.units));
        let link = self.link_of(&key)?;
        link.call(&set, self.settings.write_timeout).await.map(|_| ()).map_err(|(_, error)| error)
    }

    async fn difference(&self) -> Result<Option<Distance>, StoreError> {
        let (key, mut get) = (self.keys.difference(), redis::cmd("GET"));
        get.arg(&key);
        let link = self.link_of(&key)?;
        let kept = link.call(&get, self.settings.write_timeout).await.map_err(|(_, error)| error)?;
        let kept = text(&kept);
        let parts = kept.as_deref().and_then(|kept| kept.split_once(' '));
        Ok(parts
            .and_then(|(amount, units)| Some(Distance { amount: amount.parse().ok()?, units: units.parse().ok()? })))
    }
}

impl Drop for RedisCache {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn token(fence: Fence) -> String {
    format!("{:032x}", fence.0)
}
