//! All metrics, with the names that existing dashboards use. No label holds a user id, and a
//! service label holds only configured services.

mod cache;
pub mod in_flight;
mod low_balance;
mod ops_stats;
mod recharge;
mod scale;
mod streams;

use prometheus::{
    CounterVec, Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts,
    Registry, TextEncoder,
};

use self::scale::SECONDS;
pub use self::{
    cache::CacheMetrics, low_balance::LowBalanceMetrics, ops_stats::OpsStatsMetrics, recharge::RechargeMetrics,
    streams::StreamMetrics,
};

/// Reason of a charge that was not settled in time, or refused because the queue was full.
pub const OVERLOADED: &str = "overloaded";
/// Reasons of charges that fail because of the service. All other reasons are refusals, which the
/// caller or the user causes.
pub const FAILURES: [&str; 2] = [OVERLOADED, "internal"];

pub struct Metrics {
    registry: Registry,
    /// By service and result: free, balance, or the reason of the refusal in lower case.
    pub quota_check_total: IntCounterVec,
    pub quota_check_duration_seconds: Histogram,
    pub quota_check_duration_ms: Histogram,
    /// By service and type: free, balance, mixed.
    pub quota_deduct_total: IntCounterVec,
    pub quota_deduct_duration_seconds: Histogram,
    /// By operation: check, deduct, reserve, commit, release, adjust.
    pub duration_ms: HistogramVec,
    /// By operation: deduct (includes commits), recharge, adjust_credit, adjust_debit.
    pub balance_total: IntCounterVec,
    pub balance_amount: CounterVec,
    pub deduct_success: IntCounter,
    /// By reason of the error table in lower case: [`FAILURES`] and refusals.
    pub deduct_failure: IntCounterVec,
    /// As [`Self::deduct_failure`], for reserves and openings of streams.
    pub reserve_failure: IntCounterVec,
    pub idempotent_hit: IntCounter,
    pub idempotent_conflict: IntCounter,
    pub stream_pending_created: IntCounter,
    pub stream_committed: IntCounter,
    pub stream_failed: IntCounter,
    /// 1 while a shared limiter is configured, but each process counts its own requests.
    pub rate_limit_local: IntGauge,
    /// How far this process's clock is ahead of the database's.
    pub clock_skew_seconds: Gauge,
    pub recharge: RechargeMetrics,
    pub low: LowBalanceMetrics,
    pub ops_stats: OpsStatsMetrics,
    pub cache: CacheMetrics,
    pub streams: StreamMetrics,
}

impl Metrics {
    /// Creates and registers all metrics.
    ///
    /// # Errors
    /// The registry refuses a name or a label. They are constant, so only a defect can cause it.
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
        let clock_skew_seconds = Gauge::new(
            "billing_clock_skew_seconds",
            "How far the clock of this server is ahead of the clock of the database",
        )?;
        registry.register(Box::new(clock_skew_seconds.clone()))?;
        let deduct_failure = counters("billing_deduct_failure", "Charges refused or failed", &["reason"])?;
        let reserve_failure = counters("billing_reserve_failure", "Reserves refused or failed", &["reason"])?;
        for reason in FAILURES {
            // Created at the start, because rate() misses the step from no value to the first one.
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
            clock_skew_seconds,
            recharge: RechargeMetrics::new(&registry)?,
            low: LowBalanceMetrics::new(&registry)?,
            ops_stats: OpsStatsMetrics::new(&registry)?,
            cache: CacheMetrics::new(&registry)?,
            streams: StreamMetrics::new(&registry)?,
            registry,
        })
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
