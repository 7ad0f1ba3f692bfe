//! The caches that checks read, as the configuration has them.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    biz::read_model::{Caches, Trust},
    config::{Config, Driver},
    data::{Store, memory::MemoryCache},
};

/// Accounts and API keys that the near cache keeps, about half a kilobyte each.
const NEAR_ENTRIES: usize = 100_000;
/// For how long changes that other processes make may go unnoticed, and only by accounts
/// that are far from every limit.
const NEAR_AGE: Duration = Duration::from_millis(200);

/// How long a process that ends tries to tell the shared cache what it changed.
const TELL_TIMEOUT: Duration = Duration::from_secs(2);
/// How often an embedded database is asked whether another process, such as cron, changed it.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

pub(super) fn of_server(config: &Config) -> Arc<Caches> {
    let trust = match (config.data.database.driver, &config.data.redis) {
        (Driver::Sqlite, None) => Trust::Always,
        _ => Trust::WhileFar(NEAR_AGE),
    };
    Arc::new(Caches::new(Arc::new(MemoryCache::new(NEAR_ENTRIES)), trust, None))
}

/// Keeps the caches true until `stop`, which comes when nothing is settled any more.
pub(super) async fn keep(caches: Arc<Caches>, store: Arc<dyn Store>, stop: CancellationToken) {
    let watching = async {
        loop {
            tokio::time::sleep(WATCH_INTERVAL).await;
            match store.was_changed_elsewhere().await {
                Ok(false) => {}
                Ok(true) => caches.forget_near().await,
                Err(error) => {
                    tracing::debug!(%error, "the database could not be asked for changes");
                    caches.forget_near().await;
                }
            }
            caches.end_doubts().await;
        }
    };
    tokio::join!(stop.run_until_cancelled(watching), caches.deliver(&stop));
    tell(&caches).await;
}

/// Of a job beside the servers: it reads nothing, and the cache that they share has to hear
/// of what it changes.
pub(super) fn of_job(_config: &Config) -> Arc<Caches> {
    Arc::new(Caches::new(Arc::new(MemoryCache::new(0)), Trust::WhileFar(Duration::ZERO), None))
}

/// Tells the shared cache what a job changed.
pub(super) async fn tell(caches: &Caches) {
    if !matches!(tokio::time::timeout(TELL_TIMEOUT, caches.flush()).await, Ok(true)) {
        tracing::warn!("the cache does not answer; reconcile-cache mends what it has missed");
    }
}
