//! Metrics, under the names that dashboards already use. No label holds a user id, and a
//! service label only ever holds a configured service.

mod cache;
mod charges;
mod checks;
mod in_flight;
mod jobs;
mod low_balance;
mod operations;
mod ops_stats;
mod process;
mod recharge;
mod registration;
mod requests;
mod streams;

use prometheus::{Encoder, IntGauge, Registry, TextEncoder};

pub use self::{
    cache::CacheMetrics,
    charges::{ChargeObserver, FAILURES, Outcome},
    checks::CheckMetrics,
    in_flight::{InFlight, Operation},
    jobs::{JobMetrics, RunEnd},
    low_balance::LowBalanceMetrics,
    ops_stats::OpsStatsMetrics,
    recharge::RechargeMetrics,
    requests::RequestMetrics,
    streams::StreamMetrics,
};
use self::{
    charges::ChargeMetrics,
    operations::{BalanceMetrics, OperationTimes},
};
use crate::biz::{account::catalog::Catalog, values::error::Error};

/// Reason of a charge that was not settled in time, or for which there was no room.
pub const OVERLOADED: &str = "overloaded";

pub struct Metrics {
    registry: Registry,
    charges: ChargeMetrics,
    /// 1 while limits are kept per process although a shared limiter is configured.
    rate_limit_local: IntGauge,
    pub checks: CheckMetrics,
    pub recharge: RechargeMetrics,
    pub low: LowBalanceMetrics,
    pub ops_stats: OpsStatsMetrics,
    pub cache: CacheMetrics,
    pub streams: StreamMetrics,
    pub requests: RequestMetrics,
    pub jobs: JobMetrics,
}

impl Metrics {
    /// # Errors
    /// A name or label that prometheus refuses; the names are fixed, so only a defect.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        registry.register(Box::new(process::ProcessCollector::new()?))?;
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
            requests: RequestMetrics::new(&registry)?,
            jobs: JobMetrics::new(&registry)?,
            registry,
        })
    }

    /// Shows whether rate limits are kept per process although a shared limiter is configured.
    pub fn set_rate_limit_local(&self, is_local: bool) {
        self.rate_limit_local.set(is_local.into());
    }

    /// The text format of Prometheus.
    ///
    /// # Errors
    /// A metric that can't be encoded; only a defect.
    pub fn render(&self) -> prometheus::Result<Vec<u8>> {
        self.streams.refresh();
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

/// An error as metrics count it.
#[derive(Debug, Clone, Copy)]
pub struct Failure<'e> {
    pub error: &'e Error,
    /// As in the error table.
    pub reason: &'static str,
}

impl Failure<'_> {
    /// The reason as a label.
    pub fn label(&self) -> String {
        self.reason.to_lowercase()
    }
}

/// A label from a bounded set, whatever callers send.
fn service_label<'a>(catalog: &'a Catalog, service: &str) -> &'a str {
    catalog.find(service).map_or("unknown", |(known, _)| known.as_str())
}

/// A count as a gauge has it.
fn gauge(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
