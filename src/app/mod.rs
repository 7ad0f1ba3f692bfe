//! Wiring: the only module that names concrete types of all layers.

mod caches;
mod clock_watch;
mod core;
pub mod cron;
mod database;
mod descriptors;
mod jobs;
mod low_balance;
mod ops_stats;
mod payments;
mod ports;
mod prices;
mod rates;
mod services;
mod use_rollup;
mod vitals;
mod webhooks;
mod welcome;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;

pub use self::{
    clock_watch::ensure_clock_agrees,
    database::{close, connect, connect_announcing, connect_existing, connect_unchanged, plan},
    jobs::{reconcile_cache, reconcile_recharges, sweep},
};
use self::{
    core::Core,
    payments::Payments,
    ports::{Ports, Served},
};
use crate::{
    biz::values::calendar::{Clock, SystemClock},
    config::Config,
    server,
};

/// A running server.
pub struct App {
    pub http_addr: SocketAddr,
    pub grpc_addr: SocketAddr,
    core: Core,
    payments: Payments,
    served: Served,
    /// Cancelled after the last settlement.
    settled: CancellationToken,
    caches: JoinHandle<()>,
    sight: JoinHandle<()>,
    drain_timeout: Duration,
    welcome: Option<String>,
}

impl App {
    /// Connects, migrates, and listens on both ports.
    ///
    /// # Errors
    /// A door is open in production, the database is unavailable or refuses the login, or an address
    /// is in use.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        Self::start_with_clock(config, SystemClock).await
    }

    /// As [`App::start`], with the time of `clock`.
    ///
    /// # Errors
    /// As [`App::start`].
    pub async fn start_with_clock(config: Config, clock: impl Clock) -> anyhow::Result<Self> {
        let connections = descriptors::connections_of_a_port(&config)?;
        config.refuse_open_doors()?;
        let core = Core::start(&config, Arc::new(clock)).await?;
        let ports = Ports::bind(&config.server, connections, core.stop.clone()).await?;
        let (http_addr, grpc_addr) = (ports.http_addr, ports.grpc_addr);
        let payments = payments::start(&config, grpc_addr).await?;
        let api = services::api(&config, &core, &payments)?;
        let settled = CancellationToken::new();
        let caches = tokio::spawn(core.keeper().keep(settled.clone()));
        // Requests of the drain have lines too.
        let sight = tokio::spawn(core.sight.clone().keep(settled.clone()));
        jobs::spawn_regular(&config, &core);
        webhooks::spawn(&config, &core)?;
        let served = ports.serve(&config, &core, api, &payments).await?;
        let drain_timeout = config.server.limits.drain_timeout;
        let welcome = welcome::lines(&config, http_addr, grpc_addr);
        Ok(Self { http_addr, grpc_addr, core, payments, served, settled, caches, sight, drain_timeout, welcome })
    }

    /// The lines for a developer who started this server; `None` in other environments.
    pub fn welcome(&self) -> Option<&str> {
        self.welcome.as_deref()
    }

    /// Stops without the loss of an accepted request: refuses new connections, finishes open
    /// requests, settles accepted charges, and closes the connections to the database.
    pub async fn stop(self) {
        tracing::info!("stopping");
        let deadline = Instant::now() + self.drain_timeout;
        server::report_health(&self.served.health, ServingStatus::NotServing).await;
        self.core.stop.cancel();
        for listener in self.served.listeners {
            if let Err(error) = listener.await {
                tracing::error!(%error, "listener ended abnormally");
            }
        }
        // Top-ups, texts and streams without a caller are settled while the lanes still run.
        self.core.tasks.close();
        if tokio::time::timeout_at(deadline, self.core.tasks.wait()).await.is_err() {
            tracing::warn!("top-ups, texts or streams were still being settled when the drain timeout ran out");
        }
        // Each lane has a deadline, so this ends.
        self.core.engine.drain().await;
        self.settled.cancel();
        if let Err(error) = self.caches.await {
            tracing::error!(%error, "cache maintenance task failed");
        }
        if let Err(error) = self.sight.await {
            tracing::error!(%error, "count of log lines and traces ended abnormally");
        }
        if let Some(sandbox) = self.payments.sandbox {
            sandbox.stop().await;
        }
        close(&*self.core.store).await;
        tracing::info!("stopped");
    }
}
