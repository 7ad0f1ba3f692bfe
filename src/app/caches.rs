//! The caches that checks read, as the configuration has them.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    biz::{
        check::cache::{
            Caches, ReadModel, Trust, account_cache::AccountCache, prewarm::prewarm, reconcile::SharedCache,
        },
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

/// Accounts and API keys that the near cache keeps, about half a kilobyte each.
const NEAR_ENTRIES: usize = 100_000;
/// For how long changes that other processes make may go unnoticed, and only by accounts
/// that are far from every limit.
const NEAR_AGE: Duration = Duration::from_millis(200);

/// Accounts that are warmed in a second, a tenth of what checks may read from the database.
const PREWARM_A_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(999);
/// How long Redis is waited for, before what needs it.
const START_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the gauges of the caches are brought up to date.
const SHOW_INTERVAL: Duration = Duration::from_secs(1);
/// How long a process that ends tries to tell the shared cache what it changed.
const SEND_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two attempts at that.
const SEND_PAUSE: Duration = Duration::from_millis(20);
/// How often an embedded database is asked whether another process, such as cron, changed it.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// Caches, and Redis where it is configured.
pub(super) struct Started {
    pub caches: Arc<Caches>,
    pub redis: Option<Arc<RedisCache>>,
}

pub(super) fn of_server(config: &Config, metrics: &Arc<Metrics>) -> anyhow::Result<Started> {
    let redis = config.data.redis.as_ref().map(|redis| {
        let metrics = metrics.clone();
        connect(redis, true, Box::new(move |script, took| metrics.cache.time_script(script, took)))
    });
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

/// Connects in the background. A server `keeps` what is in Redis; jobs only use it.
pub(super) fn connect(redis: &config::Redis, keeps: bool, times: ScriptTimes) -> Arc<RedisCache> {
    let layout = match redis.mode {
        RedisMode::Single => RedisLayout::Single,
        RedisMode::Sentinel => RedisLayout::Sentinel { master: redis.master.clone() },
        RedisMode::Cluster => RedisLayout::Cluster,
    };
    let settings = RedisSettings {
        layout,
        addrs: redis.addrs.clone(),
        username: redis.username.clone(),
        password: redis.password.as_ref().map(|password| password.reveal().to_owned()),
        db: redis.db.into(),
        check_timeout: redis.check_timeout.min(redis.read_timeout),
        write_timeout: redis.write_timeout,
        keeps,
        ttl: redis.ttl,
    };
    Arc::new(RedisCache::start(settings, times))
}

/// Keeps the caches true and warm.
pub(super) struct Keeper {
    pub caches: Arc<Caches>,
    pub redis: Option<Arc<RedisCache>>,
    pub model: Arc<ReadModel>,
    pub store: Arc<dyn Store>,
    pub calendar: Arc<Calendar>,
    pub metrics: Arc<Metrics>,
}

impl Keeper {
    /// Until `stop`, which comes when nothing is settled any more.
    pub(super) async fn keep(self, stop: CancellationToken) {
        let keeping = async { tokio::join!(self.watch(), self.keep_warm(), self.model.refresh(), self.show()) };
        let delivering = async {
            // What is under way when it is to stop may hang.
            let late = async {
                stop.cancelled().await;
                sleep(SEND_TIMEOUT).await;
            };
            tokio::select! {
                () = self.caches.deliver(&stop) => tell(&self.caches).await,
                () = late => tracing::warn!("the cache does not answer; reconcile-cache mends what it has missed"),
            }
        };
        tokio::join!(stop.run_until_cancelled(keeping), delivering);
    }

    /// Sees to changes that did not come by here.
    async fn watch(&self) {
        loop {
            sleep(WATCH_INTERVAL).await;
            match self.store.was_changed_elsewhere().await {
                Ok(false) => {}
                Ok(true) => self.caches.forget_near().await,
                Err(error) => {
                    tracing::debug!(%error, "the database could not be asked for changes");
                    self.caches.forget_near().await;
                }
            }
            self.caches.expire_uncertain().await;
        }
    }

    /// Warms the caches now, and whenever Redis was found empty.
    async fn keep_warm(&self) {
        if self.caches.forgets_soon() {
            return;
        }
        if let Some(redis) = &self.redis {
            until_up(redis).await;
            // What it found when it connected is seen to now.
            let _ = redis.found_cold().now_or_never();
        }
        loop {
            match prewarm(&self.model, &*self.store, &self.calendar, PREWARM_A_SECOND).await {
                Ok(accounts) => tracing::info!(accounts, "warmed the caches"),
                Err(error) => tracing::warn!(error = %error.in_full(), "the caches were not warmed"),
            }
            match &self.redis {
                Some(redis) => redis.found_cold().await,
                None => return,
            }
        }
    }

    /// Shows how checks are served.
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

/// Gives Redis a moment before the first request, so that it does not miss a cache which is
/// there. The service does without.
pub(super) async fn wait_for(redis: Option<&RedisCache>) {
    if let Some(redis) = redis
        && !until_up(redis).await
    {
        tracing::warn!("redis does not answer; checks read the database until it does");
    }
}

/// Waits for Redis, for as long as a start may take.
pub(super) async fn until_up(redis: &RedisCache) -> bool {
    let up = async {
        while !redis.is_up() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(START_TIMEOUT, up).await.is_ok()
}

/// Of a job beside the servers: it reads nothing, and the cache that they share has to hear
/// of what it changes.
pub(super) fn of_job(config: &Config) -> Arc<Caches> {
    let redis =
        config.data.redis.as_ref().map(|redis| connect(redis, false, Box::new(|_, _| {})) as Arc<dyn AccountCache>);
    Arc::new(Caches::new(Arc::new(MemoryCache::new(0)), Trust::WhileFar(Duration::ZERO), redis))
}

/// Tells the shared cache what this process changed. A job may be done before it has a
/// connection.
pub(super) async fn tell(caches: &Caches) {
    let sent = async {
        while !caches.flush().await {
            sleep(SEND_PAUSE).await;
        }
    };
    if tokio::time::timeout(SEND_TIMEOUT, sent).await.is_err() {
        tracing::warn!("the cache does not answer; reconcile-cache mends what it has missed");
    }
}
