//! All metrics, with the names that existing dashboards use. No label holds a user id, and a
//! service label holds only configured services.

mod cache;
mod charges;
mod checks;
mod connections;
mod events;
mod hour;
mod in_flight;
mod jobs;
mod labels;
mod low_balance;
mod observer;
mod operations;
mod ops_stats;
mod prices;
mod process;
mod recharge;
mod registration;
mod requests;
mod scale;
mod spans;
mod streams;
mod use_rollup;
mod webhooks;

use std::sync::Arc;

use std::time::Instant;

use prometheus::{Encoder, Gauge, IntGauge, Registry, TextEncoder};

pub use self::{
    cache::CacheMetrics,
    charges::Operation,
    checks::CheckMetrics,
    connections::ConnectionMetrics,
    events::EventMetrics,
    hour::{SAMPLE_INTERVAL, Sample, Samples},
    in_flight::InFlight,
    jobs::{JobMetrics, RunEnd},
    labels::{FAILURES, Failure},
    low_balance::LowBalanceMetrics,
    observer::{ChargeObserver, Outcome},
    ops_stats::OpsStatsMetrics,
    prices::PriceMetrics,
    recharge::RechargeMetrics,
    requests::RequestMetrics,
    streams::StreamMetrics,
    use_rollup::UseRollupMetrics,
    webhooks::WebhookMetrics,
};
use self::{
    charges::ChargeMetrics,
    operations::{BalanceMetrics, OperationTimes},
};
use crate::biz::database::clock_skew::Skew;

pub struct Metrics {
    registry: Registry,
    charges: ChargeMetrics,
    /// 1 while a shared limiter is configured, but each process counts its own requests.
    rate_limit_local: IntGauge,
    /// 1 while the first host of the database is in use.
    database_first_host: IntGauge,
    /// How far this process's clock is ahead of the database's.
    pub(crate) clock_skew_seconds: Gauge,
    pub checks: CheckMetrics,
    pub recharge: RechargeMetrics,
    pub low: LowBalanceMetrics,
    pub ops_stats: OpsStatsMetrics,
    pub events: EventMetrics,
    pub cache: CacheMetrics,
    pub streams: StreamMetrics,
    pub prices: PriceMetrics,
    pub requests: RequestMetrics,
    pub connections: ConnectionMetrics,
    pub jobs: JobMetrics,
    pub use_rollup: UseRollupMetrics,
    pub webhooks: Arc<WebhookMetrics>,
}

impl Metrics {
    /// Creates and registers all metrics.
    ///
    /// # Errors
    /// The registry refuses a name or a label. They are constant, so only a defect can cause it.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        registry.register(Box::new(process::ProcessCollector::new()?))?;
        registry.register(Box::new(spans::SpanCollector::new()?))?;
        let (times, balances) = (OperationTimes::new(&registry)?, BalanceMetrics::new(&registry)?);
        let rate_limit_local = registration::gauge(
            &registry,
            "billing_rate_limit_local",
            "1 while rate limits are kept per process because the shared limiter is unavailable",
        )?;
        let database_first_host = registration::gauge(
            &registry,
            "billing_database_first_host",
            "1 while the first host of data.database.hosts is in use, 0 while another is",
        )?;
        database_first_host.set(1);
        let clock_skew_seconds = Gauge::new(
            "billing_clock_skew_seconds",
            "How far the clock of this server is ahead of the clock of the database",
        )?;
        registry.register(Box::new(clock_skew_seconds.clone()))?;
        Ok(Self {
            charges: ChargeMetrics::new(&registry, balances.clone(), times.clone())?,
            rate_limit_local,
            database_first_host,
            clock_skew_seconds,
            checks: CheckMetrics::new(&registry, times)?,
            recharge: RechargeMetrics::new(&registry, balances)?,
            low: LowBalanceMetrics::new(&registry)?,
            ops_stats: OpsStatsMetrics::new(&registry)?,
            events: EventMetrics::new(&registry)?,
            cache: CacheMetrics::new(&registry)?,
            streams: StreamMetrics::new(&registry)?,
            prices: PriceMetrics::new(&registry)?,
            requests: RequestMetrics::new(&registry)?,
            connections: ConnectionMetrics::new(&registry)?,
            jobs: JobMetrics::new(&registry)?,
            use_rollup: UseRollupMetrics::new(&registry)?,
            webhooks: Arc::new(WebhookMetrics::new(&registry)?),
            registry,
        })
    }

    /// Shows whether each process counts its own requests although a shared limiter is configured.
    pub fn set_rate_limit_local(&self, is_local: bool) {
        self.rate_limit_local.set(is_local.into());
    }

    /// Shows whether the first one of several hosts of the database is in use.
    pub fn set_database_first_host(&self, is_first: bool) {
        self.database_first_host.set(is_first.into());
    }

    /// Shows the distance of this process's clock from the database's.
    pub fn show_clock_skew(&self, skew: Skew) {
        self.clock_skew_seconds.set(skew.ahead.as_seconds_f64());
    }

    /// A sample for the last hour.
    pub fn sample(&self, at: Instant) -> Sample {
        Sample::of(&self.registry.gather(), at)
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
