//! Delivers events to webhooks beside the requests, while this server has the lease, and reads their figures.

use std::{sync::Arc, time::Duration};

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::core::Core;
use crate::{
    biz::{
        events::reader::FeedReader,
        jobs::{
            deliver_webhooks::{Delivered, Deliverer, DeliveryObserver, JOB, Until},
            runs::{Begun, Run},
        },
        values::{calendar::Calendar, error::StoreError},
        webhooks::{
            delivery::Outcome,
            secret::SecretVault,
            store::{WebhookStore, figures},
        },
    },
    config::Config,
    data::{
        Store,
        webhooks::{resolver::Resolver, sender::HttpSender, vault::Vault},
    },
    metrics::Metrics,
};

/// Pause before the lease is tried again, while another process has it or after an outage.
const PAUSE: Duration = Duration::from_secs(5);
/// Pause between two readings of the figures.
const FIGURES_PAUSE: Duration = Duration::from_secs(10);
/// Deadline of a reading.
const FIGURES_TIMEOUT: Duration = Duration::from_secs(10);
/// The name of the run of a server among the runs of the job. It never ends.
const PERIOD: &str = "server";

/// The vault of the secrets; `None` without a key in the configuration.
///
/// # Errors
/// The cipher does not take the key.
pub(super) fn vault(config: &Config) -> anyhow::Result<Option<Arc<dyn SecretVault>>> {
    let Some(key) = config.billing.webhooks.key() else { return Ok(None) };
    Ok(Some(Arc::new(Vault::new(&key, &config.billing.webhooks.old_keys())?)))
}

/// Hears of no attempts, where no metrics are read.
struct Unobserved;

impl DeliveryObserver for Unobserved {
    fn attempted(&self, _: Outcome, _: Duration) {}
}

/// The deliverer of the configuration; `None` without a key.
///
/// # Errors
/// The certificates are unusable.
pub(super) fn deliverer(
    config: &Config,
    (store, feed): (Arc<dyn Store>, Arc<FeedReader>),
    calendar: Arc<Calendar>,
    metrics: Option<&Metrics>,
) -> anyhow::Result<Option<Deliverer>> {
    let Some(vault) = vault(config)? else { return Ok(None) };
    let webhooks = &config.billing.webhooks;
    let is_private_allowed = webhooks.allow_private;
    let tls = webhooks.client_tls()?;
    let sender = HttpSender::new(Resolver::new(is_private_allowed), tls.as_ref(), !is_private_allowed)?;
    let observer: Arc<dyn DeliveryObserver> = match metrics {
        Some(metrics) => metrics.webhooks.clone(),
        None => Arc::new(Unobserved),
    };
    Ok(Some(Deliverer { store, feed, sender: Arc::new(sender), vault, calendar, observer }))
}

/// Starts the deliveries of a server and the reading of the figures, until it stops.
///
/// # Errors
/// As [`deliverer`].
pub(super) fn spawn(config: &Config, core: &Core) -> anyhow::Result<()> {
    let Core { store, feed, calendar, metrics, stop, tasks, .. } = core;
    let reading = read_figures(store.clone(), calendar.clone(), metrics.clone());
    let stopping = stop.clone();
    tokio::spawn(async move { stopping.run_until_cancelled(reading).await });
    if let Some(deliverer) = deliverer(config, (store.clone(), feed.clone()), calendar.clone(), Some(metrics))? {
        tasks.spawn(deliver_regularly(deliverer, store.clone(), stop.clone()));
    }
    Ok(())
}

/// Delivers whenever this process gets the lease, until `stop`.
async fn deliver_regularly(deliverer: Deliverer, store: Arc<dyn Store>, stop: CancellationToken) {
    // One owner for all turns: if the answer to the begin of a turn is lost, the next one still gets the lease.
    let run = Run { job: JOB, period: PERIOD.into(), is_by_hand: true, owner: Uuid::now_v7().to_string() };
    // Ends: with the server.
    while !stop.is_cancelled() {
        match store.begin_run(&run).await {
            Ok(Begun::Ours { .. }) => deliver(&deliverer, &*store, &run, &stop).await,
            Ok(Begun::Elsewhere | Begun::Done) => {}
            Err(error) => tracing::warn!(%error, "lease of the webhooks not taken; trying again"),
        }
        stop.run_until_cancelled(sleep(PAUSE)).await;
    }
}

/// Delivers with the lease, and gives it back.
async fn deliver(deliverer: &Deliverer, store: &dyn Store, run: &Run, stop: &CancellationToken) {
    tracing::info!("webhooks are delivered by this process");
    let (deliverer, owner, stop) = (deliverer.clone(), run.owner.clone(), stop.clone());
    // A task of its own, so that a defect ends this run only.
    let running = tokio::spawn(async move { deliverer.run(&owner, Until::Stopped, &stop).await });
    match running.await {
        Ok(Ok(Delivered { is_lost: true, .. })) => {
            tracing::warn!("lease of the webhooks lost; it expired, or another process has it")
        }
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(%error, "delivery of webhooks interrupted; trying again"),
        Err(error) => tracing::error!(%error, "delivery of webhooks ended abnormally; trying again"),
    }
    if let Err(error) = store.end_run(run, false).await {
        tracing::warn!(%error, "release of the lease of the webhooks failed; the lease expires by itself");
    }
}

/// Reads the figures at once and then at intervals. After a failed reading the gauges keep their values.
async fn read_figures(store: Arc<dyn Store>, calendar: Arc<Calendar>, metrics: Arc<Metrics>) {
    // Ends: with the server.
    loop {
        if let Err(error) = set_figures(&*store as &dyn WebhookStore, &calendar, &metrics).await {
            tracing::warn!(%error, "figures of webhooks not read; the gauges keep their values");
        }
        sleep(FIGURES_PAUSE).await;
    }
}

/// Sets the gauges. That of failed webhooks needs the webhooks alone: many retries must not hold its alert up.
async fn set_figures(store: &dyn WebhookStore, calendar: &Calendar, metrics: &Metrics) -> Result<(), StoreError> {
    let webhooks = in_time(store.webhooks()).await?;
    metrics.webhooks.set_failed(webhooks.failed());
    let figures = in_time(figures(store, &webhooks)).await?;
    metrics.webhooks.set(&figures, calendar.now().utc);
    Ok(())
}

/// The output of a reading, within its deadline.
async fn in_time<T>(reading: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let late = |_| Err(StoreError::Unavailable(format!("no answer in {FIGURES_TIMEOUT:?}").into()));
    timeout(FIGURES_TIMEOUT, reading).await.unwrap_or_else(late)
}
