//! Connections of the ports, and panics of their handlers.

use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

use super::registration::{counter, counters};

/// Counts by port (`http`, `grpc`).
#[derive(Clone)]
pub struct ConnectionMetrics {
    open: IntGaugeVec,
    /// By the limit that ended or refused a connection.
    ended: IntCounterVec,
    held_refusals: IntCounterVec,
    panics: IntCounter,
}

impl ConnectionMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let open = Opts::new("billing_connections", "Connections that are open");
        let open = IntGaugeVec::new(open, &["port"])?;
        registry.register(Box::new(open.clone()))?;
        Ok(Self {
            open,
            ended: counters(
                registry,
                "billing_connections_ended_total",
                "Connections that a limit ended, or kept from more than health",
                &["port", "reason"],
            )?,
            held_refusals: counters(
                registry,
                "billing_held_refusals_total",
                "Answers to refused calls that waited, because their connection had many of them",
                &["port"],
            )?,
            panics: counter(registry, "billing_panics_total", "Panics of request handlers")?,
        })
    }

    /// Counts a connection from `port` that is open until the result is dropped.
    pub fn open(&self, port: &'static str) -> OpenConnection {
        let gauge = self.open.with_label_values(&[port]);
        gauge.inc();
        OpenConnection(gauge)
    }

    /// Counts a connection that a limit ended. `reason` must be from a bounded set.
    pub fn count_end(&self, port: &'static str, reason: &'static str) {
        self.ended.with_label_values(&[port, reason]).inc();
    }

    /// Counts an answer to a refused call that waits.
    pub fn count_held_refusal(&self, port: &'static str) {
        self.held_refusals.with_label_values(&[port]).inc();
    }

    pub fn count_panic(&self) {
        self.panics.inc();
    }
}

/// One open connection.
pub struct OpenConnection(prometheus::IntGauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}
