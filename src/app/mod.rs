//! Wiring: the one place that names concrete types.

mod caches;
pub mod cron;
mod database;
mod jobs;
mod low_balance;
mod ops_stats;
mod payments;
mod prices;
mod rates;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use chrono::TimeDelta;
use tokio::{net::TcpListener, sync::Semaphore, task::JoinHandle, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic_health::ServingStatus;

use crate::{
    biz::{
        account::Accounts,
        charge::quote::Quoter,
        check::{
            Quotas,
            cache::{ReadModel, Watched},
        },
        metering::{Meter, StreamTimeouts, tokens::TokenCounter},
        settlement::engine::Engine,
        values::calendar::{Calendar, Clock, SystemClock},
    },
    config::{Config, Streams},
    data::{Store, vocabulary::EmbeddedVocabularies},
    metrics::Metrics,
    server::{self, CallbackGuard, Ops, Parts},
    service::{Api, MAX_EXPORTS, json::UnknownPolicy, rest::Rest},
};

use self::{
    caches::{Keeper, Started},
    low_balance::LowBalances,
    ops_stats::OpsStats,
    payments::Payments,
};
pub use self::{
    database::{close, connect, connect_announcing, connect_existing, connect_unchanged, plan},
    jobs::{reconcile_cache, reconcile_recharges, sweep},
};

/// A running server.
pub struct App {
    pub http_addr: SocketAddr,
    pub grpc_addr: SocketAddr,
    stop: CancellationToken,
    listeners: Vec<JoinHandle<()>>,
    health: tonic_health::server::HealthReporter,
    engine: Arc<Engine>,
    /// Cancelled when nothing is settled any more.
    settled: CancellationToken,
    caches: JoinHandle<()>,
    store: Arc<dyn Store>,
    payments: Payments,
    tasks: TaskTracker,
    drain_timeout: Duration,
}

impl App {
    /// Connects, migrates, and listens on both ports.
    ///
    /// # Errors
    /// The database does not answer in time or refuses, or an address is taken.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        Self::start_with_clock(config, SystemClock).await
    }

    /// As [`App::start`], with the time of `clock`.
    ///
    /// # Errors
    /// As [`App::start`].
    pub async fn start_with_clock(config: Config, clock: impl Clock) -> anyhow::Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(clock);
        let store = connect(&config).await?;
        let catalog = Arc::new(config.catalog());
        let calendar = Arc::new(Calendar::new(config.billing.timezone, clock.clone()));
        let metrics = Arc::new(Metrics::new()?);
        let Started { caches, redis } = caches::of_server(&config, &metrics)?;
        caches::wait_for(redis.as_deref()).await;
        let lanes = database::limits(&config);
        let engine = Arc::new(Engine::start(store.clone(), caches.clone(), catalog.clone(), calendar.clone(), lanes));
        let accounts = Arc::new(Accounts::new(store.clone(), engine.clone(), catalog.clone(), calendar.clone()));
        let stop = CancellationToken::new();
        let prices = prices::start(&config, store.clone(), stop.clone()).await?;
        let quoter = Arc::new(Quoter::new(prices, calendar.clone()));
        let rates = rates::guard(&config, redis.clone(), clock);
        let http = listen("server.http.addr", &config.server.http.addr).await?;
        let grpc = listen("server.grpc.addr", &config.server.grpc.addr).await?;
        let (http_addr, grpc_addr) = (http.local_addr()?, grpc.local_addr()?);
        let payments = payments::start(&config, grpc_addr).await?;
        let recharges =
            payments::recharges(&config, store.clone(), engine.clone(), calendar.clone(), payments.gateway.clone());
        let tasks = TaskTracker::new();
        let model = Arc::new(ReadModel::new(caches.clone(), accounts.clone(), store.clone()));
        let tokens = Arc::new(TokenCounter::new(Arc::new(EmbeddedVocabularies::default())));
        let reservation_ttl = TimeDelta::from_std(config.billing.reservation_ttl)?;
        let Streams { progress, grace, idle_timeout } = config.billing.streams;
        let metering = StreamTimeouts { ttl: reservation_ttl, progress, grace, idle_timeout };
        let api = Arc::new(Api {
            quotas: Quotas::new(model.clone(), rates.clone(), catalog.clone(), quoter.clone(), calendar.clone()),
            quoter,
            rates: rates.clone(),
            accounts,
            engine: engine.clone(),
            recharges: Arc::new(recharges),
            orders: store.clone(),
            limits: Arc::new(Watched::new(store.clone(), caches.clone())),
            key_quotas: Arc::new(Watched::new(store.clone(), caches.clone())),
            records: store.clone(),
            transactions: store.clone(),
            statistics: store.clone(),
            meter: Meter::new(engine.clone(), tokens.clone(), metering, config.server.limits.streams, stop.clone()),
            tokens,
            catalog: catalog.clone(),
            calendar: calendar.clone(),
            metrics: metrics.clone(),
            tasks: tasks.clone(),
            exports: Arc::new(Semaphore::new(MAX_EXPORTS)),
            currency: config.billing.currency.clone(),
            reservation_ttl,
        });

        let limits = &config.server.limits;
        let callbacks = CallbackGuard {
            auth: payments.callback_auth,
            secrets: payments.callback_secrets.clone().into(),
            calendar: calendar.clone(),
            metrics: metrics.clone(),
        };
        let parts = Parts {
            config: &config.server,
            rest: Rest {
                api: api.clone(),
                style: config.server.http.style,
                unknown: UnknownPolicy::new(config.server.http.unknown_fields, metrics.clone()),
            },
            ops: Ops { store: store.clone(), metrics: metrics.clone(), rates, redis: redis.clone() },
            callbacks,
            payment_timeout: payments.timeout,
        };
        let (health, health_service) = server::grpc_health();
        server::report_health(&health, ServingStatus::Serving).await;
        if config.server.grpc.internal_tokens.is_empty() {
            tracing::warn!(%grpc_addr, "server.grpc.internal_tokens is empty: whoever reaches this port may charge and adjust accounts");
        }

        let settled = CancellationToken::new();
        let keeper = Keeper {
            caches,
            redis: redis.clone(),
            model,
            store: store.clone(),
            calendar: calendar.clone(),
            metrics: metrics.clone(),
        };
        let caches = tokio::spawn(keeper.keep(settled.clone()));
        tokio::spawn(jobs::sweep_regularly(store.clone(), engine.clone(), calendar.clone(), api.clone(), stop.clone()));
        let ops_stats = OpsStats { store: store.clone(), calendar: calendar.clone(), metrics: metrics.clone() };
        tokio::spawn(ops_stats.read_regularly(stop.clone()));
        let thresholds = config.low_thresholds();
        let low = LowBalances { store: store.clone(), thresholds, catalog, calendar, metrics };
        tokio::spawn(low.count_regularly(stop.clone()));
        let drain_timeout = limits.drain_timeout;
        let limits = server::Limits { connections: limits.connections, drain_timeout, connection_window: None };
        let metering = server::Limits { connection_window: Some(server::METERING_WINDOW), ..limits };
        let public = server::public_app(parts.clone());
        let internal = server::internal_app(parts, health_service)?;
        let listeners = vec![
            tokio::spawn(server::serve(http, public, limits, stop.clone())),
            tokio::spawn(server::serve(grpc, internal, metering, stop.clone())),
        ];
        tracing::info!(%http_addr, %grpc_addr, "serving");
        Ok(Self {
            http_addr,
            grpc_addr,
            stop,
            listeners,
            health,
            engine,
            settled,
            caches,
            store,
            payments,
            tasks,
            drain_timeout,
        })
    }

    /// Stops without losing an answer: no new connections, open requests finish,
    /// accepted charges settle, connections to the database close.
    pub async fn stop(self) {
        tracing::info!("stopping");
        let deadline = Instant::now() + self.drain_timeout;
        server::report_health(&self.health, ServingStatus::NotServing).await;
        self.stop.cancel();
        for listener in self.listeners {
            if let Err(error) = listener.await {
                tracing::error!(%error, "a listener ended abnormally");
            }
        }
        // Top-ups and texts whose callers have gone, and streams, while there are lanes.
        self.tasks.close();
        if tokio::time::timeout_at(deadline, self.tasks.wait()).await.is_err() {
            tracing::warn!("top-ups, texts or streams were still being settled when the drain timeout ran out");
        }
        // Lanes give up in time, so this ends.
        self.engine.drain().await;
        self.settled.cancel();
        if let Err(error) = self.caches.await {
            tracing::error!(%error, "the keeping of the caches ended abnormally");
        }
        if let Some(sandbox) = self.payments.sandbox {
            sandbox.stop().await;
        }
        close(&*self.store).await;
        tracing::info!("stopped");
    }
}

async fn listen(key: &str, addr: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr).await.with_context(|| format!("config key {key}: can't listen on {addr}"))
}
