//! The price book in use: read at the start, and again while the server runs.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use crate::{
    biz::prices::{PriceStore, Prices},
    config::Config,
    data::Store,
};

/// A read that takes longer, as over a connection that went silent, is given up.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// The configured versions, and those of the database where a service is priced by model.
/// Those are read again regularly until `stop`, so that a new one needs no restart.
///
/// # Errors
/// The versions of the database can't be read.
pub(super) async fn start(
    config: &Config,
    store: Arc<dyn Store>,
    stop: CancellationToken,
) -> anyhow::Result<Arc<Prices>> {
    let prices = Arc::new(Prices::new(config.price_book()));
    if config.billing.model_services.is_empty() {
        return Ok(prices);
    }
    prices.refresh(&*store).await.context("the table price_version can't be read")?;
    tokio::spawn(refresh_regularly(prices.clone(), store, config.billing.price_refresh, stop));
    Ok(prices)
}

async fn refresh_regularly(
    prices: Arc<Prices>,
    store: Arc<dyn PriceStore>,
    interval: Duration,
    stop: CancellationToken,
) {
    let refreshing = async {
        let mut failed = false;
        loop {
            tokio::time::sleep(interval).await;
            let why = match tokio::time::timeout(READ_TIMEOUT, prices.refresh(&*store)).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("no answer in time".to_owned()),
            };
            match &why {
                // Once an outage: the prices that are known go on.
                Some(why) if !failed => tracing::error!(%why, "the table price_version can't be read"),
                None if failed => tracing::info!("the table price_version is read again"),
                _ => {}
            }
            failed = why.is_some();
        }
    };
    stop.run_until_cancelled(refreshing).await;
}
