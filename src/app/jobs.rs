//! What runs beside the requests: in cron, and some of it in every server.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use chrono::TimeDelta;
use tokio_util::sync::CancellationToken;

use super::{caches, core::Core, database::limits, low_balance::LowBalances, ops_stats::OpsStats, payments};
use crate::{
    biz::{
        check::cache::{
            Caches,
            reconcile::{ReconciledCache, Reconciler},
        },
        recharge::{
            Recharges,
            reconcile::{ReconcilePreview, ReconciledOrders, Waits},
        },
        settlement::{
            engine::Engine,
            sweep::{self, Swept},
        },
        values::calendar::{Calendar, Clock},
    },
    config::Config,
    data::Store,
    metrics::ChargeObserver,
};

/// How often a server ends the reservations that are past their expiry; cron does so too.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
/// A sweep that takes longer, as over a connection that went silent, is given up; what it
/// ended stays ended, and the next one goes on.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(60);

/// Starts the jobs that every server runs beside its requests, until it stops.
pub(super) fn spawn_regular(config: &Config, core: &Core) {
    let Core { store, engine, catalog, calendar, metrics, stop, .. } = core;
    let observer = core.observer.clone();
    tokio::spawn(sweep_regularly(store.clone(), engine.clone(), calendar.clone(), observer, stop.clone()));
    let ops_stats = OpsStats { store: store.clone(), calendar: calendar.clone(), metrics: metrics.clone() };
    tokio::spawn(ops_stats.read_regularly(stop.clone()));
    let low = LowBalances {
        store: store.clone(),
        thresholds: config.low_thresholds(),
        catalog: catalog.clone(),
        calendar: calendar.clone(),
        metrics: metrics.clone(),
    };
    tokio::spawn(low.count_regularly(stop.clone()));
}

/// Ends expired reservations where no cron runs. Several sweeps at once end each of them once.
pub(super) async fn sweep_regularly(
    store: Arc<dyn Store>,
    engine: Arc<Engine>,
    calendar: Arc<Calendar>,
    observer: ChargeObserver,
    stop: CancellationToken,
) {
    let sweeping = async {
        loop {
            tokio::time::sleep(SWEEP_INTERVAL).await;
            let sweep = sweep::sweep(&*store, &engine, &calendar, |ended, effect| observer.count_ended(&ended, effect));
            match tokio::time::timeout(SWEEP_TIMEOUT, sweep).await {
                Ok(Ok(Swept { freed: 0, charged: 0, failed: 0 })) => {}
                Ok(Ok(Swept { freed, charged, failed })) => {
                    tracing::info!(freed, charged, failed, "ended expired reservations");
                }
                Ok(Err(error)) => tracing::warn!(error = %error.in_full(), "expired reservations could not be read"),
                Err(_) => tracing::warn!("the sweep of expired reservations took too long"),
            }
        }
    };
    stop.run_until_cancelled(sweeping).await;
}

/// Ends the reservations that are past their expiry, through lanes of its own: the locks of
/// the database arbitrate between these and a server's. Ends soon after `cut`, when Redis
/// was told what is settled.
///
/// # Errors
/// The expired reservations can't be read.
pub async fn sweep(
    config: &Config,
    store: Arc<dyn Store>,
    clock: impl Clock,
    cut: &CancellationToken,
) -> anyhow::Result<Swept> {
    let calendar = Arc::new(Calendar::new(config.billing.timezone, clock));
    let caches = caches::of_job(config);
    let catalog = Arc::new(config.catalog());
    let engine = Engine::start(store.clone(), caches.clone(), catalog, calendar.clone(), limits(config));
    let swept = cut.run_until_cancelled(sweep::sweep(&*store, &engine, &calendar, |_, _| ())).await;
    engine.drain().await;
    caches::tell(&caches).await;
    Ok(swept.context("cut short")??)
}

/// Looks up the top-ups that stay pending, and settles them, through lanes of its own.
///
/// # Errors
/// payment-service is not configured or does not answer, or the orders can't be read.
pub async fn reconcile_recharges(
    config: &Config,
    store: Arc<dyn Store>,
    clock: impl Clock,
    cut: &CancellationToken,
) -> anyhow::Result<ReconciledOrders> {
    let job = RechargeJob::new(config, store, clock)?;
    let reconciled = cut.run_until_cancelled(job.recharges.reconcile(job.waits)).await;
    job.engine.drain().await;
    caches::tell(&job.caches).await;
    Ok(reconciled.context("cut short")??)
}

/// What [`reconcile_recharges`] would do, with `listed` of the orders at the most.
///
/// # Errors
/// As [`reconcile_recharges`].
pub(super) async fn preview_recharges(
    config: &Config,
    store: Arc<dyn Store>,
    clock: impl Clock,
    listed: usize,
) -> anyhow::Result<ReconcilePreview> {
    let job = RechargeJob::new(config, store, clock)?;
    let preview = job.recharges.preview(job.waits, listed).await;
    job.engine.drain().await;
    Ok(preview?)
}

/// Top-ups as a job settles them.
struct RechargeJob {
    recharges: Recharges,
    waits: Waits,
    engine: Arc<Engine>,
    caches: Arc<Caches>,
}

impl RechargeJob {
    fn new(config: &Config, store: Arc<dyn Store>, clock: impl Clock) -> anyhow::Result<Self> {
        let Some(payment) = &config.payment_service else { anyhow::bail!("config key payment_service: is missing") };
        let waits = Waits {
            reconcile_after: TimeDelta::from_std(payment.reconcile_after)?,
            expire_after: TimeDelta::from_std(payment.expire_after)?,
        };
        let gateway = payments::gateway(payment, payments::Addresses::of(payment))?;
        let calendar = Arc::new(Calendar::new(config.billing.timezone, clock));
        let catalog = Arc::new(config.catalog());
        let caches = caches::of_job(config);
        let engine = Arc::new(Engine::start(store.clone(), caches.clone(), catalog, calendar.clone(), limits(config)));
        let recharges = payments::recharges(config, store, engine.clone(), calendar, Some(gateway));
        Ok(Self { recharges, waits, engine, caches })
    }
}

/// Compares what Redis has with the database, and drops from it what differs unless this is
/// a dry run; `None` where there is no Redis.
///
/// # Errors
/// Redis or the database does not answer.
pub async fn reconcile_cache(
    config: &Config,
    store: Arc<dyn Store>,
    clock: impl Clock,
    is_dry_run: bool,
) -> anyhow::Result<Option<ReconciledCache>> {
    let Some(redis) = &config.data.redis else { return Ok(None) };
    let redis = caches::connect(redis, false, Box::new(|_, _| {}));
    anyhow::ensure!(caches::until_up(&redis).await, "config key data.redis: no answer");
    let reconciler = Reconciler {
        cache: redis,
        accounts: store.clone(),
        key_quotas: store,
        calendar: Arc::new(Calendar::new(config.billing.timezone, clock)),
    };
    Ok(Some(reconciler.run(!is_dry_run).await?))
}
