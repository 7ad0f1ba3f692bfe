//! All metrics, with the names that existing dashboards use. No label holds a user id, and a
//! service label holds only configured services.

mod cache;
mod charges;
mod checks;
mod in_flight;
mod labels;
mod low_balance;
mod observer;
mod operations;
mod ops_stats;
mod prices;
mod recharge;
mod registration;
mod scale;
mod streams;

use prometheus::{Encoder, IntGauge, Registry, TextEncoder};

pub use self::{
    cache::CacheMetrics,
    charges::Operation,
    checks::CheckMetrics,
    in_flight::InFlight,
    labels::{FAILURES, Failure},
    low_balance::LowBalanceMetrics,
    observer::{ChargeObserver, Outcome},
    ops_stats::OpsStatsMetrics,
    prices::PriceMetrics,
    recharge::RechargeMetrics,
    streams::StreamMetrics,
};
use self::{
    charges::ChargeMetrics,
    operations::{BalanceMetrics, OperationTimes},
};

pub struct Metrics {
    registry: Registry,
    charges: ChargeMetrics,
    /// 1 while a shared limiter is configured, but each process counts its own requests.
    rate_limit_local: IntGauge,
    pub checks: CheckMetrics,
    pub recharge: RechargeMetrics,
    pub low: LowBalanceMetrics,
    pub ops_stats: OpsStatsMetrics,
    pub cache: CacheMetrics,
    pub streams: StreamMetrics,
    pub prices: PriceMetrics,
}

impl Metrics {
    /// Creates and registers all metrics.
    ///
    /// # Errors
    /// The registry refuses a name or a label. They are constant, so only a defect can cause it.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let (times, balances) = (OperationTimes::new(&registry)?, BalanceMetrics::new(&registry)?);
        let rate_limit_local = registration::gauge(
            &registry,
            "billing_rate_limit_local",
            "1 while rate limits are kept per process because the shared limiter is unavailable",
        )?;
        Ok(Self {
            charges: ChargeMetrics::new(&registry, balances.clone(), times.clone())?,
            rate_limit_local,
            checks: CheckMetrics::new(&registry, times)?,
            recharge: RechargeMetrics::new(&registry, balances)?,
            low: LowBalanceMetrics::new(&registry)?,
            ops_stats: OpsStatsMetrics::new(&registry)?,
            cache: CacheMetrics::new(&registry)?,
            streams: StreamMetrics::new(&registry)?,
            prices: PriceMetrics::new(&registry)?,
            registry,
        })
    }

    /// Shows whether each process counts its own requests although a shared limiter is configured.
    pub fn set_rate_limit_local(&self, is_local: bool) {
        self.rate_limit_local.set(is_local.into());
    }

    /// All metrics in the text format of Prometheus.
    ///
    /// # Errors
    /// A metric can't be encoded, which only a defect can cause.
    pub fn render(&self) -> prometheus::Result<Vec<u8>> {
        self.streams.refresh();
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}
