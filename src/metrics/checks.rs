//! Quota checks, by service and result.

use std::time::Duration;

use prometheus::{Histogram, IntCounterVec, Registry, Result};

use super::{
    labels::service_label,
    operations::OperationTimes,
    registration::{counters, histogram},
    scale::{SECONDS, milliseconds},
};
use crate::biz::account::catalog::Catalog;

pub struct CheckMetrics {
    /// By service and result: free, balance, or the reason of the refusal in lower case.
    total: IntCounterVec,
    duration_seconds: Histogram,
    duration_ms: Histogram,
    times: OperationTimes,
}

impl CheckMetrics {
    pub(super) fn new(registry: &Registry, times: OperationTimes) -> Result<Self> {
        let (seconds, ms) = ("billing_quota_check_duration_seconds", "quota_check_duration_ms");
        Ok(Self {
            total: counters(registry, "billing_quota_check_total", "Quota checks", &["service", "result"])?,
            duration_seconds: histogram(registry, seconds, "Time of a quota check", SECONDS.to_vec())?,
            duration_ms: histogram(registry, ms, "Time of a quota check in milliseconds", milliseconds())?,
            times,
        })
    }

    /// Counts one check of `service`, which is labelled only if it is in the catalog.
    pub fn count(&self, catalog: &Catalog, service: &str, result: &str, took: Duration) {
        self.duration_seconds.observe(took.as_secs_f64());
        self.duration_ms.observe(took.as_secs_f64() * 1000.0);
        self.times.observe("check", took);
        self.total.with_label_values(&[service_label(catalog, service), result]).inc();
    }
}
