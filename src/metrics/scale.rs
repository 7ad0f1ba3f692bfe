//! Buckets and number types that several metrics share.

/// Buckets in seconds, from a cache hit to a timeout.
pub(super) const SECONDS: &[f64] =
    &[0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

/// A count in the type of a gauge.
pub(super) fn gauge(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// [`SECONDS`] in milliseconds.
pub(super) fn milliseconds() -> Vec<f64> {
    SECONDS.iter().map(|seconds| seconds * 1000.0).collect()
}
