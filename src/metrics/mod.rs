//! What is counted, under the names that dashboards already use. No label holds a
//! user id, and a service label only ever holds a configured service.

mod cache;
pub mod in_flight;
mod low_balance;
mod ops_stats;
mod recharge;
mod requests;
mod streams;

use prometheus::{
    CounterVec, Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};

pub use self::{
    cache::CacheMetrics, low_balance::LowBalanceMetrics, ops_stats::OpsStatsMetrics, recharge::RechargeMetrics,
    requests::RequestMetrics, streams::StreamMetrics,
};

/// Buckets in seconds, from a cache hit to a timeout.
const SECONDS: &[f64] = &[0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

/// Reason of a charge that was not settled in time, or for which there was no room.
pub const OVERLOADED: &str = "overloaded";
/// Reasons for which a charge fails by the service's own doing. All others are refusals,
/// which the caller or the user brought about.
pub const FAILURES: [&str; 2] = [OVERLOADED, "internal"];

pub struct Metrics {
    registry: Registry,
    /// By service and result: free, balance, or the refusal's reason in lower case.
    pub quota_check_total: IntCounterVec,
    pub quota_check_duration_seconds: Histogram,
    pub quota_check_duration_ms: Histogram,
    /// By service and type: free, balance, mixed.
    pub quota_deduct_total: IntCounterVec,
    pub quota_deduct_duration_seconds: Histogram,
    /// By operation: check, deduct, reserve, commit, release, adjust.
    pub duration_ms: HistogramVec,
    /// By operation: deduct (commits too), recharge, adjust_credit, adjust_debit.
    pub balance_total: IntCounterVec,
    pub balance_amount: CounterVec,
    pub deduct_success: IntCounter,
    /// By reason, as in the error table, in lower case; [`FAILURES`] and refusals.
    pub deduct_failure: IntCounterVec,
    /// As [`Self::deduct_failure`], of reserves and of streams that open.
    pub reserve_failure: IntCounterVec,
    pub idempotent_hit: IntCounter,
    pub idempotent_conflict: IntCounter,
    pub stream_pending_created: IntCounter,
    pub stream_committed: IntCounter,
    pub stream_failed: IntCounter,
    /// 1 while limits are kept per process although a shared limiter is configured.
    pub rate_limit_local: IntGauge,
    pub recharge: RechargeMetrics,
    pub low: LowBalanceMetrics,
    pub ops_stats: OpsStatsMetrics,
    pub cache: CacheMetrics,
    pub streams: StreamMetrics,
    pub requests: RequestMetrics,
}

impl Metrics {
    /// # Errors
    /// A name or label that prometheus refuses; the names are fixed, so only a defect.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let millis: Vec<f64> = SECONDS.iter().map(|seconds| seconds * 1000.0).collect();
        let seconds = |name, help| {
            let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(SECONDS.to_vec()))?;
            registry.register(Box::new(histogram.clone()))?;
            Ok::<_, prometheus::Error>(histogram)
        };
        let counters = |name, help, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let counter = |name, help| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let quota_check_duration_ms = Histogram::with_opts(
            HistogramOpts::new("quota_check_duration_ms", "Time of a quota check in milliseconds")
                .buckets(millis.clone()),
        )?;
        registry.register(Box::new(quota_check_duration_ms.clone()))?;
        let duration_ms = HistogramVec::new(
            HistogramOpts::new("billing_duration_ms", "Time of an operation in milliseconds").buckets(millis),
            &["operation"],
        )?;
        registry.register(Box::new(duration_ms.clone()))?;
        let balance_amount =
            CounterVec::new(Opts::new("billing_balance_amount", "Amounts moved to or from balances"), &["operation"])?;
        registry.register(Box::new(balance_amount.clone()))?;
        let rate_limit_local = IntGauge::new(
            "billing_rate_limit_local",
            "1 while rate limits are kept per process because the shared limiter is unavailable",
        )?;
        registry.register(Box::new(rate_limit_local.clone()))?;
        let deduct_failure = counters("billing_deduct_failure", "Charges refused or failed", &["reason"])?;
        let reserve_failure = counters("billing_reserve_failure", "Reserves refused or failed", &["reason"])?;
        for reason in FAILURES {
            // Shown from the start: a rate does not see the step to a counter's first value.
            deduct_failure.with_label_values(&[reason]);
            reserve_failure.with_label_values(&[reason]);
        }
        Ok(Self {
            quota_check_total: counters("billing_quota_check_total", "Quota checks", &["service", "result"])?,
            quota_check_duration_seconds: seconds("billing_quota_check_duration_seconds", "Time of a quota check")?,
            quota_check_duration_ms,
            quota_deduct_total: counters("billing_quota_deduct_total", "Charges made", &["service", "type"])?,
            quota_deduct_duration_seconds: seconds("billing_quota_deduct_duration_seconds", "Time of a charge")?,
            duration_ms,
            balance_total: counters("billing_balance_total", "Changes of balances", &["operation"])?,
            balance_amount,
            deduct_success: counter("billing_deduct_success", "Charges acknowledged")?,
            deduct_failure,
            reserve_failure,
            idempotent_hit: counter("billing_idempotent_hit", "Retries answered with their first outcome")?,
            idempotent_conflict: counter("billing_idempotent_conflict", "Ids used again with other content")?,
            stream_pending_created: counter("billing_stream_pending_created", "Reservations made")?,
            stream_committed: counter("billing_stream_committed", "Reservations committed")?,
            stream_failed: counter("billing_stream_failed", "Commits of reservations that were refused or failed")?,
            rate_limit_local,
            recharge: RechargeMetrics::new(&registry)?,
            low: LowBalanceMetrics::new(&registry)?,
            ops_stats: OpsStatsMetrics::new(&registry)?,
            cache: CacheMetrics::new(&registry)?,
            streams: StreamMetrics::new(&registry)?,
            requests: RequestMetrics::new(&registry)?,
            registry,
        })
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

/// A count as a gauge has it.
fn gauge(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
