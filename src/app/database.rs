//! Connects to the configured database, migrates its schema, and sets the limits of the lanes.

use std::{
    ops::RangeInclusive,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::anyhow;
use backon::{ExponentialBuilder, Retryable};

use crate::{
    biz::{
        database::identity::Identity,
        settlement::engine::{LaneLimits, ParkingLimits},
        values::error::StoreError,
    },
    config::{Billing, Config, Driver, ShowReads},
    data::{
        Store, dsn,
        legacy_zone::LegacyZone,
        mysql::{self, MySqlStore, Nodes, Pace, PoolLimits, Reads},
        plan::{Announce, UpgradePlan},
        sqlite::{self, SqliteLimits, SqliteStore},
    },
};

/// Lanes on MySQL: one per core, within these bounds. While one lane waits for its commit, the
/// others work. More lanes would only make the batches smaller.
const MYSQL_LANES: RangeInclusive<usize> = 2..=8;
/// Most postings in one transaction on MySQL, because other connections need the server too.
const MYSQL_BATCH: usize = 512;
/// Most postings in one transaction on SQLite. A commit writes each changed page once, so larger
/// batches write fewer pages per charge.
const SQLITE_BATCH: usize = 4_000;
/// Lanes on SQLite. SQLite has one writer, so one lane makes the largest batches.
const SQLITE_LANES: usize = 1;
/// Batches after a repeated trace id in which every id is looked up.
const FULL_LOOKUPS: u32 = 32;
/// Longest wait at a stop until the connections are closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// Connections for transactions outside the lanes.
const SPARE_WRITERS: usize = 2;
/// Connections beside those of the parking, for changes of caps and quotas, and for the sweep.
const SPARE_WAITERS: usize = 2;

/// Pauses between attempts to connect.
const CONNECT_BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(100))
    .with_max_delay(Duration::from_secs(3))
    .without_max_times()
    .with_jitter();

/// Connects to the configured database and brings its schema up to date. Retries for
/// `data.database.connect_timeout` while the database is unavailable. Refuses a database with
/// another currency or time zone.
///
/// # Errors
/// The last error, with the config key to check.
pub async fn connect(config: &Config) -> anyhow::Result<Arc<dyn Store>> {
    connect_announcing(config, &|plan| {
        if plan.has_work {
            plan.lines.iter().for_each(|line| tracing::info!("{line}"));
        }
    })
    .await
}

/// As [`connect`]. Calls `announce` with the migration plan, which may be empty, before the
/// migration.
///
/// # Errors
/// As [`connect`].
pub async fn connect_announcing(config: &Config, announce: &Announce) -> anyhow::Result<Arc<dyn Store>> {
    let (store, identity) = retry_while_unavailable(config, || async {
        let store = try_connect(config, announce).await?;
        let identity = identity(config, &*store).await?;
        Ok((store, identity))
    })
    .await?;
    if let Err(refusal) = check_identity(config, &identity) {
        close(&*store).await;
        return Err(refusal);
    }
    Ok(store)
}

/// The identity of a database. A new database gets the configured currency and zone.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Failed`].
pub(super) async fn identity(config: &Config, store: &dyn Store) -> Result<Identity, StoreError> {
    let Billing { currency, timezone, .. } = config.billing;
    store.identity(&Identity::fresh(currency, timezone)).await
}

/// Amounts in another currency, or days of another zone, would change their meaning.
fn check_identity(config: &Config, database: &Identity) -> anyhow::Result<()> {
    let (currency, zone) = (config.billing.currency.code(), config.billing.timezone.name());
    for (key, configured, kept, of_what) in [
        ("billing.currency", currency, &database.currency, "all amounts"),
        ("billing.timezone", zone, &database.time_zone, "all days and months"),
    ] {
        if configured != kept {
            anyhow::bail!(
                "config key {key}: is {configured}, and {of_what} in this database are of {kept}; set {key} to {kept}, \
                 or name another database in data.database.source"
            );
        }
    }
    Ok(())
}

/// The migration plan of [`connect`]. Changes nothing.
///
/// # Errors
/// As [`connect`].
pub async fn plan(config: &Config) -> anyhow::Result<UpgradePlan> {
    retry_while_unavailable(config, || try_plan(config)).await
}

/// Retries while the database is unavailable, for `data.database.connect_timeout`.
async fn retry_while_unavailable<T, F>(config: &Config, attempt: impl Fn() -> F) -> anyhow::Result<T>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let timeout = config.data.database.connect_timeout;
    let deadline = Instant::now() + timeout;
    attempt
        .retry(CONNECT_BACKOFF)
        .when(|error| !matches!(error, StoreError::Failed(_)))
        .adjust(|_, pause| pause.filter(|pause| Instant::now() + *pause <= deadline))
        .notify(|error, pause| tracing::warn!(%error, "database unavailable; retry in {pause:.1?}"))
        .await
        .map_err(|error| match error {
            StoreError::Failed(why) => anyhow!("config key data.database: {why}"),
            error => anyhow!("config key data.database.source: gave up after {timeout:?}: {error}"),
        })
}

/// Closes the connections of `store`, for [`CLOSE_TIMEOUT`] at most.
pub async fn close(store: &dyn Store) {
    if tokio::time::timeout(CLOSE_TIMEOUT, store.close()).await.is_err() {
        tracing::warn!("connections to the database not closed in time");
    }
}

/// As [`connect`], migrations included, for a command beside the service. A missing SQLite file is
/// an error, because the audit of a new, empty database would succeed.
///
/// # Errors
/// As [`connect`].
pub async fn connect_existing(config: &Config) -> anyhow::Result<Arc<dyn Store>> {
    ensure_exists(config)?;
    connect(config).await
}

fn ensure_exists(config: &Config) -> anyhow::Result<()> {
    let database = &config.data.database;
    if database.driver == Driver::Sqlite {
        let options =
            dsn::sqlite(database.source.reveal()).map_err(|why| anyhow!("config key data.database.source: {why}"))?;
        let file = options.get_filename();
        if !file.exists() {
            return Err(anyhow!("config key data.database.source: {} does not exist", file.display()));
        }
    }
    Ok(())
}

/// As [`connect_existing`], but without migrations. A schema that is not up to date is an error.
///
/// # Errors
/// As [`connect`].
pub async fn connect_unchanged(config: &Config) -> anyhow::Result<Arc<dyn Store>> {
    ensure_exists(config)?;
    if plan(config).await?.has_work {
        return Err(anyhow!("the database is not up to date: run `server --migrate-only`, which prints its plan"));
    }
    connect(config).await
}

async fn try_plan(config: &Config) -> Result<UpgradePlan, StoreError> {
    let database = &config.data.database;
    match database.driver {
        Driver::Mysql => mysql::plan(&nodes(config)?, database.acquire_timeout, &settings(config)).await,
        Driver::Sqlite => sqlite::plan(dsn::sqlite(database.source.reveal()).map_err(StoreError::Failed)?).await,
    }
}

fn nodes(config: &Config) -> Result<Nodes, StoreError> {
    let database = &config.data.database;
    let mut options = dsn::mysql_nodes(database.source.reveal(), &database.hosts).map_err(StoreError::Failed)?;
    if let Some(tls) = database.client_tls().map_err(|error| StoreError::Failed(error.to_string()))? {
        options = options.into_iter().map(|options| mysql::with_tls(options, &tls)).collect();
    }
    let exact = |return_after| Pace { return_after, return_jitter: Duration::ZERO };
    Nodes::with_pace(options, database.return_to_host_after.map_or_else(Pace::default, exact))
}

fn settings(config: &Config) -> mysql::UpgradeOptions {
    let database = &config.data.database;
    mysql::UpgradeOptions {
        legacy_zone: LegacyZone::new(database.source.reveal(), database.legacy_zone),
        billing_zone: config.billing.timezone,
    }
}

async fn try_connect(config: &Config, announce: &Announce) -> Result<Arc<dyn Store>, StoreError> {
    let database = &config.data.database;
    Ok(match database.driver {
        Driver::Mysql => {
            let limits = PoolLimits {
                readers: database.max_connections,
                show_reads: match database.show_reads {
                    ShowReads::Current => Reads::Current,
                    ShowReads::Node => Reads::OfNode,
                },
                writers: lanes(config) + SPARE_WRITERS,
                waiters: config.billing.settlement.parked_connections + SPARE_WAITERS,
                acquire_timeout: database.acquire_timeout,
                full_lookups: FULL_LOOKUPS,
            };
            let nodes = nodes(config)?;
            mysql::bring_up_to_date(&nodes, database.acquire_timeout, &settings(config), announce).await?;
            Arc::new(MySqlStore::new(nodes, limits))
        }
        Driver::Sqlite => {
            let options = dsn::sqlite(database.source.reveal()).map_err(StoreError::Failed)?;
            let connections =
                u32::try_from(database.max_connections).map_err(|error| StoreError::Failed(error.to_string()))?;
            let limits = SqliteLimits {
                readers: connections,
                acquire_timeout: database.acquire_timeout,
                full_lookups: FULL_LOOKUPS,
            };
            Arc::new(SqliteStore::connect(options, limits, announce).await?)
        }
    })
}

/// The limits of the lanes, from the configuration or the defaults of the database.
pub(super) fn limits(config: &Config) -> LaneLimits {
    let settlement = &config.billing.settlement;
    LaneLimits {
        lanes: lanes(config),
        queue: settlement.queue,
        batch: batch(config),
        max_wait: settlement.max_wait,
        retry_timeout: settlement.retry_timeout,
        parking: ParkingLimits {
            accounts: settlement.parked_accounts,
            postings: settlement.parked_postings,
            connections: settlement.parked_connections,
            quarantine: settlement.quarantine,
        },
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
