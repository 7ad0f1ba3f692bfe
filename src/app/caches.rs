//! Builds the caches of the check from the configuration, and keeps them current and warm.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    biz::{
        check::cache::{
            Caches, ReadModel, Trust, account_cache::AccountCache, prewarm::prewarm, reconcile::SharedCache,
        },
        database::identity::Identity,
        values::calendar::Calendar,
    },
    config::{self, Config, Driver, RedisMode},
    data::{
        Store,
        memory::MemoryCache,
        redis::{RedisCache, RedisLayout, RedisSettings, ScriptTimes},
    },
    metrics::Metrics,
};

/// Most accounts and API keys in the near cache. An entry takes about half a kilobyte.
const NEAR_ENTRIES: usize = 100_000;
/// Longest time that a near entry may be stale after a change by another process. Only accounts that
/// are far from every limit are served from such an entry.
const NEAR_AGE: Duration = Duration::from_millis(200);

/// Accounts that the warm-up loads per second: a tenth of the database reads that checks may make.
const PREWARM_A_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(999);
/// Longest wait for Redis at the start of a server or job.
const START_TIMEOUT: Duration = Duration::from_secs(2);
/// Interval at which the gauges of the caches are updated.
const SHOW_INTERVAL: Duration = Duration::from_secs(1);
/// Time in which a stopping process sends its last updates to the shared cache.
const SEND_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause between two attempts to send them.
const SEND_PAUSE: Duration = Duration::from_millis(20);
/// Interval at which SQLite is asked for changes by another process, such as cron.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// The caches, and the Redis client if Redis is configured.
pub(super) struct Started {
    pub caches: Arc<Caches>,
    pub redis: Option<Arc<RedisCache>>,
}

pub(super) fn of_server(config: &Config, database: &Identity, metrics: &Arc<Metrics>) -> anyhow::Result<Started> {
    let connect = |redis| {
        let metrics = metrics.clone();
        connect(redis, database, true, Box::new(move |script, took| metrics.cache.time_script(script, took)))
    };
    let redis = config.data.redis.as_ref().map(connect).transpose()?;
    if redis.is_some() {
        metrics.cache.show_shared()?;
    }
    let trust = match (config.data.database.driver, &redis) {
        (Driver::Sqlite, None) => Trust::Always,
        _ => Trust::WhileFar(NEAR_AGE),
    };
    let near = Arc::new(MemoryCache::new(NEAR_ENTRIES));
    let shared = redis.clone().map(|redis| redis as Arc<dyn AccountCache>);
    Ok(Started { caches: Arc::new(Caches::new(near, trust, shared)), redis })
}

/// Connects in the background. A server `keeps` the entries of Redis; jobs only use them.
///
/// # Errors
/// A file of TLS has a defect.
pub(super) fn connect(
    redis: &config::Redis,
    database: &Identity,
    keeps: bool,
    times: ScriptTimes,
) -> anyhow::Result<Arc<RedisCache>> {
    let layout = match redis.mode {
        RedisMode::Single => RedisLayout::Single,
        RedisMode::Sentinel => RedisLayout::Sentinel { master: redis.master.clone() },
        RedisMode::Cluster => RedisLayout::Cluster,
    };
    let settings = RedisSettings {
        database: database.id,
        layout,
        addrs: redis.addrs.clone(),
        username: redis.username.clone(),
        password: redis.password.as_ref().map(|password| password.reveal().to_owned()),
        tls: redis.client_tls()?,
        db: redis.db.into(),
        check_timeout: redis.check_timeout.min(redis.read_timeout),
        write_timeout: redis.write_timeout,
        keeps,
        ttl: redis.ttl,
    };
    Ok(Arc::new(RedisCache::start(settings, times)))
}

/// Keeps the caches current and warm.
pub(super) struct Keeper {
    pub caches: Arc<Caches>,
    pub redis: Option<Arc<RedisCache>>,
    pub model: Arc<ReadModel>,
    pub store: Arc<dyn Store>,
    pub calendar: Arc<Calendar>,
    pub metrics: Arc<Metrics>,
}

impl Keeper {
    /// Runs until `stop`, which must come after the last settlement, and then sends the last
    /// updates.
    pub(super) async fn keep(self, stop: CancellationToken) {
        let keeping = async { tokio::join!(self.watch(), self.keep_warm(), self.model.refresh(), self.show()) };
        let delivering = async {
            // An update in flight at the stop may hang.
            let late = async {
                stop.cancelled().await;
                sleep(SEND_TIMEOUT).await;
            };
            tokio::select! {
                () = self.caches.deliver(&stop) => send_updates(&self.caches).await,
                () = late => tracing::warn!("redis unavailable; reconcile-cache corrects the stale entries"),
            }
        };
        tokio::join!(stop.run_until_cancelled(keeping), delivering);
    }

    /// Empties the near cache when another process has changed the database, or may have.
    async fn watch(&self) {
        loop {
            sleep(WATCH_INTERVAL).await;
            match self.store.was_changed_elsewhere().await {
                Ok(false) => {}
                Ok(true) => self.caches.forget_near().await,
                Err(error) => {
                    tracing::debug!(%error, "check for changes by other processes failed; near cache emptied");
                    self.caches.forget_near().await;
                }
            }
            self.caches.expire_uncertain().await;
        }
    }

    /// Warms the caches now, and whenever Redis is found empty.
    async fn keep_warm(&self) {
        if self.caches.forgets_soon() {
            return;
        }
        if let Some(redis) = &self.redis {
            until_up(redis).await;
            // The first warm-up below also covers a Redis that was empty at the connect.
            let _ = redis.found_cold().now_or_never();
        }
        loop {
            match prewarm(&self.model, &*self.store, &self.calendar, PREWARM_A_SECOND).await {
                Ok(accounts) => tracing::info!(accounts, "caches warmed"),
                Err(error) => tracing::warn!(error = %error.in_full(), "warm-up of the caches failed"),
            }
            match &self.redis {
                Some(redis) => redis.found_cold().await,
                None => return,
            }
        }
    }

    /// Updates the gauges of the caches.
    async fn show(&self) {
        loop {
            self.metrics.cache.count_reads(self.model.sources());
            if let Some(redis) = &self.redis {
                self.metrics.cache.set_redis_up(redis.is_up());
                if let Ok(Some(difference)) = redis.difference().await {
                    self.metrics.cache.set_redis_difference(difference.amount, difference.units);
                }
            }
            sleep(SHOW_INTERVAL).await;
        }
    }
}

/// Waits for Redis for a short time, so that the first requests find the shared cache. Without
/// Redis the server starts too.
pub(super) async fn wait_for(redis: Option<&RedisCache>) {
    if let Some(redis) = redis
        && !until_up(redis).await
    {
        tracing::warn!("redis unavailable; checks read the database");
    }
}

/// Waits for Redis, for [`START_TIMEOUT`] at most; false if it is still unavailable.
pub(super) async fn until_up(redis: &RedisCache) -> bool {
    let up = async {
        while !redis.is_up() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(START_TIMEOUT, up).await.is_ok()
}

/// The caches of a job beside the servers. The job reads no entry, and sends its changes to the
/// shared cache.
///
/// # Errors
/// As [`connect`].
pub(super) fn of_job(config: &Config, database: &Identity) -> anyhow::Result<Arc<Caches>> {
    let redis = match &config.data.redis {
        Some(redis) => Some(connect(redis, database, false, Box::new(|_, _| {}))? as Arc<dyn AccountCache>),
        None => None,
    };
    Ok(Arc::new(Caches::new(Arc::new(MemoryCache::new(0)), Trust::WhileFar(Duration::ZERO), redis)))
}

/// Sends the waiting updates to the shared cache. Retries, because a job may end before it is
/// connected.
pub(super) async fn send_updates(caches: &Caches) {
    let sent = async {
        while !caches.flush().await {
            sleep(SEND_PAUSE).await;
        }
    };
    if tokio::time::timeout(SEND_TIMEOUT, sent).await.is_err() {
        tracing::warn!("redis unavailable; reconcile-cache corrects the stale entries");
    }
}
