//! `/metrics` of cron, on a port of its own. Cron settles and credits as a server does.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    metrics::Metrics,
    server::{self, ListenerLimits},
};

/// Most connections, more than there are readers.
const CONNECTIONS: usize = 64;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves until `stop`, if `cron.metrics.addr` is configured. Returns the metrics to count in.
///
/// # Errors
/// The address is taken.
pub async fn serve_metrics(config: &Config, stop: CancellationToken) -> anyhow::Result<Option<Arc<Metrics>>> {
    let Some(addr) = &config.cron.metrics.addr else { return Ok(None) };
    let listener = TcpListener::bind(addr).await;
    let listener = listener.with_context(|| format!("config key cron.metrics.addr: can't listen on {addr}"))?;
    let metrics = Arc::new(Metrics::new()?);
    let limits = ListenerLimits { connections: CONNECTIONS, drain_timeout: DRAIN_TIMEOUT, ..Default::default() };
    tracing::info!(metrics_addr = %listener.local_addr()?, "serving metrics");
    tokio::spawn(server::serve(listener, server::metrics_alone(metrics.clone(), &config.server), limits, stop));
    Ok(Some(metrics))
}
