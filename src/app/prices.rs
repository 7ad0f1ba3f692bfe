//! Reads the price book at the start, and again at intervals while the server runs.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use crate::{
    biz::{
        charge::prices::{PriceStore, Prices},
        values::error::StoreError,
    },
    config::Config,
    data::Store,
};

/// Deadline of a read, for example over a connection that went silent.
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
    let unusable = read(&prices, &*store).await.context("the table price_version can't be read")?;
    tell(&unusable);
    tokio::spawn(refresh_regularly(prices.clone(), store, config.billing.price_refresh, unusable, stop));
    Ok(prices)
}

async fn refresh_regularly(
    prices: Arc<Prices>,
    store: Arc<dyn PriceStore>,
    interval: Duration,
    mut unusable: Vec<String>,
    stop: CancellationToken,
) {
    let refreshing = async {
        let mut failed = false;
        loop {
            tokio::time::sleep(interval).await;
            match read(&prices, &*store).await {
                Ok(found) => {
                    if failed {
                        tracing::info!("table price_version readable again");
                    }
                    if found != unusable {
                        tell(&found);
                    }
                    (failed, unusable) = (false, found);
                }
                // Logged once per outage. The last prices stay in use.
                Err(why) => {
                    if !failed {
                        tracing::error!(%why, "table price_version unreadable; the last prices stay in use");
                    }
                    failed = true;
                }
            }
        }
    };
    stop.run_until_cancelled(refreshing).await;
}

async fn read(prices: &Prices, store: &dyn PriceStore) -> Result<Vec<String>, StoreError> {
    let read = tokio::time::timeout(READ_TIMEOUT, prices.refresh(store)).await;
    read.unwrap_or_else(|_| Err(StoreError::Unavailable("no answer in time".into())))
}

/// The rows that are no versions. Their models have no price as long as they would be in force.
fn tell(unusable: &[String]) {
    for row in unusable {
        tracing::error!(%row, "a row of price_version can't be used");
    }
}
