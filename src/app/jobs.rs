//! Work beside the requests: the jobs of cron, and the sweep that also runs in every server.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use chrono::TimeDelta;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    caches,
    clock_watch::ClockWatch,
    core::Core,
    database::{self, limits},
    low_balance::LowBalances,
    ops_stats::OpsStats,
    payments, use_rollup,
};
use crate::{
    biz::{
        check::cache::{
            Caches,
            reconcile::{ReconciledCache, Reconciler},
        },
        jobs::runs::under_lease,
        recharge::{
            Recharges,
            reconcile::{ReconcilePreview, Reconciled, ReconciledOrders, Waits},
        },
        settlement::{
            engine::Engine,
            sweep::{self, Swept},
            transaction::Transaction,
        },
        values::calendar::{Calendar, Clock},
    },
    config::Config,
    data::Store,
    metrics::{ChargeObserver, Metrics},
};

/// Starts the jobs that every server runs beside its requests, until it stops.
pub(super) fn spawn_regular(config: &Config, core: &Core) {
    let Core { store, engine, catalog, calendar, metrics, stop, .. } = core;
    let observer = core.observer.clone();
    let (store, engine, calendar) = (store.clone(), engine.clone(), calendar.clone());
    let owner = Uuid::now_v7().to_string();
    let (watch, interval) = (core.clock_watch(config), config.billing.sweep_interval);
    let sweeper = Sweeper { store, engine, calendar, observer, watch, owner, interval };
    tokio::spawn(sweeper.sweep_regularly(stop.clone()));
    let Core { store, calendar, .. } = core;
    let ops_stats = OpsStats { store: store.clone(), calendar: calendar.clone(), metrics: metrics.clone() };
    tokio::spawn(ops_stats.read_regularly(stop.clone()));
    let low = LowBalances {
        store: store.clone(),
        thresholds: config.low_thresholds(),
        catalog: catalog.clone(),
        calendar: calendar.clone(),
        metrics: metrics.clone(),
        owner: Uuid::now_v7().to_string(),
    };
    tokio::spawn(low.show_regularly(stop.clone()));
    tokio::spawn(use_rollup::keep(core.use_keeper.clone(), metrics.clone(), stop.clone()));
}

/// Ends expired reservations, also without a running cron. It takes the lease of the job of cron, so that one process
/// sweeps at a time. If two sweep, each reservation is still ended once.
struct Sweeper {
    store: Arc<dyn Store>,
    engine: Arc<Engine>,
    calendar: Arc<Calendar>,
    observer: ChargeObserver,
    watch: ClockWatch,
    /// Id of the lease holder, unique among all processes.
    owner: String,
    /// Pause between two sweeps.
    interval: Duration,
}

impl Sweeper {
    /// Sweeps until `stop`. Measures the clock before each sweep, because a clock that is ahead
    /// would end holds too early.
    async fn sweep_regularly(self, stop: CancellationToken) {
        let sweeping = async {
            loop {
                tokio::time::sleep(self.interval).await;
                if self.watch.agrees().await {
                    self.sweep().await;
                }
            }
        };
        stop.run_until_cancelled(sweeping).await;
    }

    async fn sweep(&self) {
        let count = |ended, effect| self.observer.count_ended(&ended, effect);
        let sweep = sweep::sweep(&*self.store, &self.engine, &self.calendar, count);
        match under_lease(&*self.store, sweep::JOB, &self.owner, sweep).await {
            Ok(None | Some(Ok(Swept { freed: 0, charged: 0, failed: 0 }))) => {}
            Ok(Some(Ok(Swept { freed, charged, failed }))) => {
                tracing::info!(freed, charged, failed, "expired reservations ended");
            }
            Ok(Some(Err(error))) => tracing::warn!(error = %error.in_full(), "expired reservations not read"),
            Err(error) => tracing::warn!(%error, "sweep of expired reservations not done; the next one goes on"),
        }
    }
}

/// Ends the reservations that are past their expiry, through lanes of its own. The locks of the
/// database order the postings of these lanes and of the servers' lanes. Returns soon after
/// `interrupt`, once the updates are sent to Redis.
///
/// # Errors
/// The expired reservations can't be read.
pub async fn sweep(
    config: &Config,
    store: Arc<dyn Store>,
    clock: impl Clock,
    interrupt: &CancellationToken,
) -> anyhow::Result<Swept> {
    sweep_counting(config, store, clock, interrupt, None).await
}

/// As [`sweep`]. Counts the ended reservations in `metrics`.
pub(super) async fn sweep_counting(
    config: &Config,
    store: Arc<dyn Store>,
    clock: impl Clock,
    interrupt: &CancellationToken,
    metrics: Option<&Arc<Metrics>>,
) -> anyhow::Result<Swept> {
    let calendar = Arc::new(config.calendar(clock));
    let caches = caches::of_job(config, &database::identity(config, &*store).await?)?;
    let catalog = Arc::new(config.catalog());
    let sanity = config.billing.usage_sanity;
    let observer = metrics.map(|metrics| ChargeObserver::new(metrics.clone(), catalog.clone(), sanity));
    let engine = Engine::start(store.clone().ledger(), caches.clone(), catalog, calendar.clone(), limits(config));
    let on_ended =
        |ended: Transaction, effect| observer.iter().for_each(|observer| observer.count_ended(&ended, effect));
    let swept = interrupt.run_until_cancelled(sweep::sweep(&*store, &engine, &calendar, on_ended)).await;
    engine.drain().await;
    caches::send_updates(&caches).await;
    Ok(swept.context("interrupted")??)
}

/// Looks up pending top-ups at payment-service, and settles them through lanes of its own.
///
/// # Errors
/// payment-service is not configured or unavailable, or the orders can't be read.
pub async fn reconcile_recharges(
    config: &Config,
    store: Arc<dyn Store>,
    clock: impl Clock,
    interrupt: &CancellationToken,
) -> anyhow::Result<ReconciledOrders> {
    reconcile_recharges_counting(config, store, clock, interrupt, None).await
}

/// As [`reconcile_recharges`]. Counts the settled orders in `metrics`.
pub(super) async fn reconcile_recharges_counting(
    config: &Config,
    store: Arc<dyn Store>,
    clock: impl Clock,
    interrupt: &CancellationToken,
    metrics: Option<&Arc<Metrics>>,
) -> anyhow::Result<ReconciledOrders> {
    let job = RechargeJob::new(config, store, clock).await?;
    let on_settled = |changed: Reconciled<'_>| {
        metrics.into_iter().for_each(|metrics| match changed {
            Reconciled::Order(order, status) => metrics.recharge.count_reconciled(order, status),
            Reconciled::Refund(refunded) => metrics.recharge.count_refund(refunded),
        });
    };
    let reconciled = interrupt.run_until_cancelled(job.recharges.reconcile(job.waits, &on_settled)).await;
    job.engine.drain().await;
    caches::send_updates(&job.caches).await;
    Ok(reconciled.context("interrupted")??)
}

/// Counts the outcomes that [`reconcile_recharges`] would have, and lists at most `listed` orders.
///
/// # Errors
/// As [`reconcile_recharges`].
pub(super) async fn preview_recharges(
    config: &Config,
    store: Arc<dyn Store>,
    clock: impl Clock,
    listed: usize,
) -> anyhow::Result<ReconcilePreview> {
    let job = RechargeJob::new(config, store, clock).await?;
    let preview = job.recharges.preview(job.waits, listed).await;
    job.engine.drain().await;
    Ok(preview?)
}

/// The parts that a job needs to settle top-ups.
struct RechargeJob {
    recharges: Recharges,
    waits: Waits,
    engine: Arc<Engine>,
    caches: Arc<Caches>,
}

impl RechargeJob {
    async fn new(config: &Config, store: Arc<dyn Store>, clock: impl Clock) -> anyhow::Result<Self> {
        let Some(payment) = &config.payment_service else { anyhow::bail!("config key payment_service: is missing") };
        let waits = Waits {
            reconcile_after: TimeDelta::from_std(payment.reconcile_after)?,
            expire_after: TimeDelta::from_std(payment.expire_after)?,
        };
        let gateway = payments::gateway(payment, payments::Addresses::of(payment))?;
        let calendar = Arc::new(config.calendar(clock));
        let catalog = Arc::new(config.catalog());
        let caches = caches::of_job(config, &database::identity(config, &*store).await?)?;
        let engine =
            Arc::new(Engine::start(store.clone().ledger(), caches.clone(), catalog, calendar.clone(), limits(config)));
        let recharges = payments::recharges(config, store, engine.clone(), calendar, Some(gateway));
        Ok(Self { recharges, waits, engine, caches })
    }
}

/// Compares the entries in Redis with the database, and removes the entries that differ unless this
/// is a dry run; `None` if Redis is not configured.
///
/// # Errors
/// Redis or the database is unavailable.
pub async fn reconcile_cache(
    config: &Config,
    store: Arc<dyn Store>,
    clock: impl Clock,
    is_dry_run: bool,
) -> anyhow::Result<Option<ReconciledCache>> {
    let Some(redis) = &config.data.redis else { return Ok(None) };
    let database = database::identity(config, &*store).await?;
    let redis = caches::connect(redis, &database, false, Box::new(|_, _| {}))?;
    anyhow::ensure!(caches::until_up(&redis).await, "config key data.redis: no answer");
    let reconciler = Reconciler {
        cache: redis,
        accounts: store.clone(),
        key_quotas: store,
        calendar: Arc::new(config.calendar(clock)),
    };
    Ok(Some(reconciler.run(!is_dry_run).await?))
}
