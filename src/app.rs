//! Wiring: the one place that names concrete types.

use std::{
    net::SocketAddr,
    ops::RangeInclusive,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use chrono::TimeDelta;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;

use crate::{
    biz::{
        account::Accounts,
        calendar::{Calendar, Clock, SystemClock},
        error::StoreError,
        quota::Quotas,
        settlement::{
            engine::{Engine, Limits},
            sweep::{self, Swept},
        },
    },
    config::{Config, Driver},
    data::{
        Store, dsn,
        mysql::{MySqlStore, PoolLimits},
        sqlite::SqliteStore,
    },
    server::{self, Ops},
    service::{Api, metrics::Metrics, rest::Rest},
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
/// How often a server frees the holds that are past their expiry; cron does so too.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
/// How long a stop waits for the database to take its connections back.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// Connections beside the lanes' for transactions of other kinds.
const SPARE_WRITERS: usize = 2;

/// A running server.
pub struct App {
    pub http_addr: SocketAddr,
    pub grpc_addr: SocketAddr,
    stop: CancellationToken,
    listeners: Vec<JoinHandle<()>>,
    health: tonic_health::server::HealthReporter,
    engine: Arc<Engine>,
    store: Arc<dyn Store>,
}

impl App {
    /// Connects, migrates, and listens on both ports.
    ///
    /// # Errors
    /// The database does not answer in time or refuses, or an address is taken.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        Self::start_with_clock(config, SystemClock).await
    }

    /// As [`App::start`], telling the time by `clock`.
    ///
    /// # Errors
    /// As [`App::start`].
    pub async fn start_with_clock(config: Config, clock: impl Clock) -> anyhow::Result<Self> {
        let store = connect(&config).await?;
        if config.data.redis.is_some() {
            tracing::info!("data.redis is set; this version reads accounts from the database and does not use it");
        }
        let catalog = Arc::new(config.catalog());
        let calendar = Arc::new(Calendar::new(config.billing.timezone, clock));
        let engine = Arc::new(Engine::start(store.clone(), catalog.clone(), calendar.clone(), limits(&config)));
        let sweep_calendar = calendar.clone();
        let accounts = Arc::new(Accounts::new(store.clone(), engine.clone(), catalog.clone(), calendar.clone()));
        let metrics = Arc::new(Metrics::new()?);
        let api = Arc::new(Api {
            quotas: Quotas::new(accounts.clone(), catalog.clone()),
            accounts,
            engine: engine.clone(),
            records: store.clone(),
            transactions: store.clone(),
            statistics: store.clone(),
            catalog,
            calendar,
            metrics: metrics.clone(),
            currency: config.billing.currency.clone(),
            reservation_ttl: TimeDelta::from_std(config.billing.reservation_ttl)?,
        });

        let rest = Rest { api, style: config.server.http.style };
        let ops = Ops { store: store.clone(), metrics };
        let (health, health_service) = server::grpc_health();
        server::report_health(&health, ServingStatus::Serving).await;
        let http = listen("server.http.addr", &config.server.http.addr).await?;
        let grpc = listen("server.grpc.addr", &config.server.grpc.addr).await?;
        let (http_addr, grpc_addr) = (http.local_addr()?, grpc.local_addr()?);
        if config.server.grpc.internal_tokens.is_empty() {
            tracing::warn!(%grpc_addr, "server.grpc.internal_tokens is empty: whoever reaches this port may charge and adjust accounts");
        }

        let stop = CancellationToken::new();
        tokio::spawn(sweep_regularly(store.clone(), engine.clone(), sweep_calendar, stop.clone()));
        let limits = server::Limits {
            connections: config.server.limits.connections,
            drain_timeout: config.server.limits.drain_timeout,
        };
        let public = server::public_app(&config.server, rest.clone(), ops.clone());
        let internal = server::internal_app(&config.server, rest, ops, health_service)?;
        let listeners = vec![
            tokio::spawn(server::serve(http, public, limits, stop.clone())),
            tokio::spawn(server::serve(grpc, internal, limits, stop.clone())),
        ];
        tracing::info!(%http_addr, %grpc_addr, "serving");
        Ok(Self { http_addr, grpc_addr, stop, listeners, health, engine, store })
    }

    /// Stops without losing an answer: no new connections, open requests finish,
    /// accepted charges settle, connections to the database close.
    pub async fn stop(self) {
        tracing::info!("stopping");
        server::report_health(&self.health, ServingStatus::NotServing).await;
        self.stop.cancel();
        for listener in self.listeners {
            if let Err(error) = listener.await {
                tracing::error!(%error, "a listener ended abnormally");
            }
        }
        // Lanes give up in time, so this ends.
        self.engine.drain().await;
        close(&*self.store).await;
        tracing::info!("stopped");
    }
}

/// Frees expired holds where no cron runs. Several sweeps at once free each hold once.
async fn sweep_regularly(store: Arc<dyn Store>, engine: Arc<Engine>, calendar: Arc<Calendar>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(SWEEP_INTERVAL) => {}
            () = stop.cancelled() => return,
        }
        match sweep::sweep(&*store, &engine, &calendar).await {
            Ok(Swept { freed: 0, failed: 0 }) => {}
            Ok(swept) => tracing::info!(freed = swept.freed, failed = swept.failed, "freed expired holds"),
            Err(error) => tracing::warn!(%error, "expired holds could not be read"),
        }
    }
}

/// Frees the holds that are past their expiry, through lanes of its own: the locks of
/// the database arbitrate between these and a server's.
///
/// # Errors
/// The expired reservations can't be read.
pub async fn sweep(config: &Config, store: Arc<dyn Store>, clock: impl Clock) -> anyhow::Result<Swept> {
    let calendar = Arc::new(Calendar::new(config.billing.timezone, clock));
    let engine = Engine::start(store.clone(), Arc::new(config.catalog()), calendar.clone(), limits(config));
    let swept = sweep::sweep(&*store, &engine, &calendar).await;
    engine.drain().await;
    Ok(swept?)
}

fn limits(config: &Config) -> Limits {
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

async fn listen(key: &str, addr: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr).await.with_context(|| format!("config key {key}: can't listen on {addr}"))
}

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
