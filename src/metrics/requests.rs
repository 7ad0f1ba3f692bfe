//! Requests of both protocols.

use prometheus::{IntCounterVec, Registry};

use super::registration::counters;

pub struct RequestMetrics {
    /// By route, as the router has it.
    unknown_fields: IntCounterVec,
}

impl RequestMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            unknown_fields: counters(
                registry,
                "billing_unknown_fields_total",
                "Members and query parameters that no message has",
                &["route"],
            )?,
        })
    }

    /// Counts the unknown fields of one request.
    pub fn count_unknown_fields(&self, route: &str, count: u64) {
        self.unknown_fields.with_label_values(&[route]).inc_by(count);
    }
}
