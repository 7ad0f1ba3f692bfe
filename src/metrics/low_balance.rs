//! Numbers of users with a low balance or a low free quota. A job counts them in the database;
//! charges and checks do not change them.

use chrono::{DateTime, Utc};
use prometheus::{IntGaugeVec, Opts, Registry};

use super::scale::gauge;
use crate::biz::{account::catalog::Catalog, jobs::low_balance::LowCounts};

/// All gauges are vectors, so that they are absent before the first count. A zero would mean that
/// no user is low.
pub struct LowBalanceMetrics {
    balance_users: IntGaugeVec,
    /// By service.
    quota_users: IntGaugeVec,
    counted_timestamp_seconds: IntGaugeVec,
}

impl LowBalanceMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let gauges = |name, help, labels: &[&str]| {
            let gauges = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauges.clone()))?;
            Ok::<_, prometheus::Error>(gauges)
        };
        Ok(Self {
            balance_users: gauges("billing_low_balance_users", "Users whose spendable balance is low", &[])?,
            quota_users: gauges("billing_low_quota_users", "Users whose free quota of the month is low", &["service"])?,
            counted_timestamp_seconds: gauges(
                "billing_low_counted_timestamp_seconds",
                "When low users were last counted, in seconds since 1970",
                &[],
            )?,
        })
    }

    /// Sets the counts of the instant `at`, for the services of the catalog.
    pub fn set(&self, counts: &LowCounts, catalog: &Catalog, at: DateTime<Utc>) {
        let none: [&str; 0] = [];
        self.balance_users.with_label_values(&none).set(gauge(counts.balance));
        for service in catalog.services() {
            let users = counts.quotas.get(service).copied().unwrap_or_default();
            self.quota_users.with_label_values(&[service.as_str()]).set(gauge(users));
        }
        self.counted_timestamp_seconds.with_label_values(&none).set(at.timestamp());
    }
}
