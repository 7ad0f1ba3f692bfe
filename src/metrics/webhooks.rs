//! Deliveries to webhooks.

use std::time::Duration;

use chrono::{DateTime, Utc};
use prometheus::{Gauge, GaugeVec, Histogram, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

use super::{
    registration::{counter, counters, histogram},
    scale::gauge,
};
use crate::biz::{
    jobs::deliver_webhooks::DeliveryObserver,
    webhooks::{
        delivery::{Failure, Outcome},
        store::Figures,
    },
};

/// Buckets in seconds, up to the time limit of an attempt.
const SECONDS: &[f64] = &[0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0];

/// The gauges are vectors, so that they are absent before the first read. A zero would mean that all is well.
pub struct WebhookMetrics {
    delivered: IntCounter,
    /// By the reason of the failure.
    failed: IntCounterVec,
    duration_seconds: Histogram,
    backlog: IntGaugeVec,
    held_back: IntGaugeVec,
    oldest_seconds: GaugeVec,
    failed_webhooks: IntGaugeVec,
    failed_users: IntGaugeVec,
}

impl WebhookMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let gauges = |name, help| {
            let gauges = IntGaugeVec::new(Opts::new(name, help), &[])?;
            registry.register(Box::new(gauges.clone()))?;
            Ok::<_, prometheus::Error>(gauges)
        };
        let oldest_seconds = GaugeVec::new(
            Opts::new(
                "billing_webhook_oldest_seconds",
                "Age of the oldest event that an active webhook has not accepted",
            ),
            &[],
        )?;
        registry.register(Box::new(oldest_seconds.clone()))?;
        let failed = counters(
            registry,
            "billing_webhook_failed_total",
            "Attempts to deliver an event that failed",
            &["reason"],
        )?;
        // An alert does not see the first step of a counter that was absent.
        for failure in Failure::ALL {
            failed.with_label_values(&[failure.name()]).inc_by(0);
        }
        Ok(Self {
            delivered: counter(registry, "billing_webhook_delivered_total", "Events that a webhook has accepted")?,
            failed,
            duration_seconds: histogram(
                registry,
                "billing_webhook_duration_seconds",
                "Time of an attempt to deliver an event",
                SECONDS.to_vec(),
            )?,
            backlog: gauges("billing_webhook_backlog", "Events that active webhooks have not passed, in sum")?,
            held_back: gauges("billing_webhook_held_back", "Users with a retry at an active webhook, in sum")?,
            oldest_seconds,
            failed_webhooks: gauges("billing_webhooks_failed", "Webhooks that have failed and get no events")?,
            failed_users: gauges(
                "billing_webhook_failed_users",
                "Users of whom an active webhook did not accept an event for three days, in sum",
            )?,
        })
    }

    /// Sets the number of webhooks that have failed.
    pub fn set_failed(&self, failed: u64) {
        set(&self.failed_webhooks, failed);
    }

    /// Sets the figures of the database.
    pub fn set(&self, figures: &Figures, now: DateTime<Utc>) {
        set(&self.backlog, figures.backlog);
        set(&self.held_back, figures.retries);
        self.set_failed(figures.failed);
        set(&self.failed_users, figures.failed_users);
        let age = figures.oldest.map_or(0.0, |oldest| (now - oldest).as_seconds_f64().max(0.0));
        let oldest: Gauge = self.oldest_seconds.with_label_values::<&str>(&[]);
        oldest.set(age);
    }
}

fn set(gauges: &IntGaugeVec, value: u64) {
    gauges.with_label_values::<&str>(&[]).set(gauge(value));
}

impl DeliveryObserver for WebhookMetrics {
    fn attempted(&self, outcome: Outcome, took: Duration) {
        self.duration_seconds.observe(took.as_secs_f64());
        match outcome.failure {
            None => self.delivered.inc(),
            Some(failure) => self.failed.with_label_values(&[failure.name()]).inc(),
        }
    }
}
