//! The configured database: connected, migrated, and how much settlement asks of it.

use std::{
    ops::RangeInclusive,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::anyhow;

use crate::{
    biz::{
        calendar::{Calendar, SystemClock},
        error::StoreError,
        settlement::engine::Limits,
    },
    config::{Config, Driver},
    data::{
        Store, dsn,
        mysql::{MySqlStore, PoolLimits},
        sqlite::SqliteStore,
    },
};

/// Lanes on a server database: as many as there are cores. While one waits for its commit
/// the others work; more would only make smaller batches of the same load.
const MYSQL_LANES: RangeInclusive<usize> = 2..=8;
/// Postings in one transaction at most; others share the database's time.
const MYSQL_BATCH: usize = 512;
/// A commit on SQLite writes every page it changed: the more charges, the fewer pages each.
const SQLITE_BATCH: usize = 4_000;
/// SQLite has one writer: one lane makes the largest batches.
const SQLITE_LANES: usize = 1;
/// How long a statement waits for a free connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// Batches that expect more repeats after one.
const WARY_BATCHES: u32 = 32;
/// How long a stop waits for the database to take its connections back.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// Connections beside the lanes' for transactions of other kinds.
const SPARE_WRITERS: usize = 2;

/// Connects to the configured database and brings its schema up to date. While it
/// does not answer, tries again for `data.database.connect_timeout`.
///
/// # Errors
/// The last reason, with the key to look at.
pub async fn connect(config: &Config) -> anyhow::Result<Arc<dyn Store>> {
    let database = &config.data.database;
    let deadline = Instant::now() + database.connect_timeout;
    let mut pause = Duration::from_millis(100);
    loop {
        let error = match try_connect(config).await {
            Ok(store) => return Ok(store),
            Err(StoreError::Failed(why)) => return Err(anyhow!("config key data.database: {why}")),
            Err(error) => error,
        };
        if Instant::now() + pause > deadline {
            return Err(anyhow!(
                "config key data.database.source: gave up after {:?}: {error}",
                database.connect_timeout
            ));
        }
        tracing::warn!(%error, "the database does not answer; trying again in {pause:?}");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(3));
    }
}

/// Closes the connections of `store`, unless the database has gone silent.
pub async fn close(store: &dyn Store) {
    if tokio::time::timeout(CLOSE_TIMEOUT, store.close()).await.is_err() {
        tracing::warn!("the database did not close its connections in time");
    }
}

/// As [`connect`], migrations included, for a command beside the service: a file that
/// is not there is an error, and not an empty database whose books balance.
///
/// # Errors
/// As [`connect`].
pub async fn connect_existing(config: &Config) -> anyhow::Result<Arc<dyn Store>> {
    let database = &config.data.database;
    if database.driver == Driver::Sqlite {
        let options =
            dsn::sqlite(database.source.reveal()).map_err(|why| anyhow!("config key data.database.source: {why}"))?;
        let file = options.get_filename();
        if !file.exists() {
            return Err(anyhow!("config key data.database.source: {} does not exist", file.display()));
        }
    }
    connect(config).await
}

async fn try_connect(config: &Config) -> Result<Arc<dyn Store>, StoreError> {
    let database = &config.data.database;
    let source = database.source.reveal();
    let store: Arc<dyn Store> = match database.driver {
        Driver::Mysql => {
            let limits = PoolLimits {
                readers: database.max_connections,
                writers: lanes(config) + SPARE_WRITERS,
                acquire_timeout: ACQUIRE_TIMEOUT,
                wary_batches: WARY_BATCHES,
            };
            let options = dsn::mysql(source).map_err(StoreError::Failed)?;
            let connecting = MySqlStore::connect(options, limits);
            Arc::new(connecting.await?)
        }
        Driver::Sqlite => {
            let options = dsn::sqlite(source).map_err(StoreError::Failed)?;
            let connections =
                u32::try_from(database.max_connections).map_err(|error| StoreError::Failed(error.to_string()))?;
            Arc::new(SqliteStore::connect(options, connections, ACQUIRE_TIMEOUT).await?)
        }
    };
    let calendar = Calendar::new(config.billing.timezone, SystemClock);
    store.date_former_records(&calendar).await?;
    Ok(store)
}

/// What the lanes take on.
pub(super) fn limits(config: &Config) -> Limits {
    let settlement = &config.billing.settlement;
    Limits {
        lanes: lanes(config),
        queue: settlement.queue,
        batch: batch(config),
        max_wait: settlement.max_wait,
        patience: settlement.patience,
    }
}

fn batch(config: &Config) -> usize {
    match (config.billing.settlement.batch, config.data.database.driver) {
        (0, Driver::Mysql) => MYSQL_BATCH,
        (0, Driver::Sqlite) => SQLITE_BATCH,
        (batch, _) => batch,
    }
}

fn lanes(config: &Config) -> usize {
    match (config.billing.settlement.lanes, config.data.database.driver) {
        (0, Driver::Mysql) => {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            cores.clamp(*MYSQL_LANES.start(), *MYSQL_LANES.end())
        }
        (0, Driver::Sqlite) => SQLITE_LANES,
        (lanes, _) => lanes,
    }
}
