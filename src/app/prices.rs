//! Reads the price book at the start, and again at intervals while the server runs.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use crate::{
    biz::{
        charge::prices::{PriceStore, Prices},
        values::{calendar::Calendar, error::StoreError},
    },
    config::Config,
    data::Store,
    metrics::Metrics,
};

/// The part of the interval that two reads are apart at least.
const LEAST_PAUSE: u32 = 4;

/// The dependencies of a read of the price book.
pub(super) struct PriceReader {
    pub store: Arc<dyn Store>,
    pub calendar: Arc<Calendar>,
    pub metrics: Arc<Metrics>,
}

/// Loads the configured versions and, if a service is priced by model, the versions of the
/// database. Reads the database again at intervals until `stop`, so that a new version needs no
/// restart.
///
/// # Errors
/// The versions of the database can't be read. A row that can't be used is no error.
pub(super) async fn start(
    config: &Config,
    reader: PriceReader,
    stop: CancellationToken,
) -> anyhow::Result<Arc<Prices>> {
    let prices = Arc::new(Prices::new(config.price_book()));
    if config.billing.model_services.is_empty() {
        return Ok(prices);
    }
    let refused = reader.read(&prices).await.context("the table price_version can't be read")?;
    report_new(&refused, &BTreeSet::new());
    tokio::spawn(refresh_regularly(prices.clone(), reader, config.billing.price_refresh, refused, stop));
    Ok(prices)
}

async fn refresh_regularly(
    prices: Arc<Prices>,
    reader: PriceReader,
    interval: Duration,
    mut refused: BTreeSet<String>,
    stop: CancellationToken,
) {
    let refreshing = async {
        let (mut failed, mut took) = (false, Duration::ZERO);
        loop {
            // The reads begin an interval apart. A slow database gets a pause all the same, and is then read later.
            tokio::time::sleep(interval.saturating_sub(took).max(interval / LEAST_PAUSE)).await;
            let began = Instant::now();
            let read = reader.read(&prices).await;
            took = began.elapsed();
            match read {
                Ok(found) => {
                    if failed {
                        tracing::info!("table price_version readable again");
                    }
                    report_new(&found, &refused);
                    (failed, refused) = (false, found);
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

impl PriceReader {
    /// Reads the book again. Returns the unusable rows.
    async fn read(&self, prices: &Prices) -> Result<BTreeSet<String>, StoreError> {
        let (store, now): (&dyn PriceStore, _) = (&*self.store, self.calendar.now().utc);
        match prices.refresh(store, now).await {
            Ok(refused) => {
                self.metrics.prices.set_read(now, refused.len());
                Ok(refused.into_iter().collect())
            }
            Err(error) => {
                self.metrics.prices.set_failed();
                Err(error)
            }
        }
    }
}

/// Logs each unusable row once. The model of such a row has no price while the row would be in
/// force.
fn report_new(refused: &BTreeSet<String>, known: &BTreeSet<String>) {
    for row in refused.difference(known) {
        tracing::error!(%row, "unusable row in price_version");
    }
}
