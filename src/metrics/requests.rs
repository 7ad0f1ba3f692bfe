//! Requests of both protocols, and the release that serves them.

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

use super::registration::counters;

pub struct RequestMetrics {
    /// By rpc, protocol (grpc, http) and the code in that protocol.
    requests: IntCounterVec,
    /// By route, as the router has it.
    unknown_fields: IntCounterVec,
    /// Postings that wait, by lane.
    lane_queue: IntGaugeVec,
}

impl RequestMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let build_info = IntGaugeVec::new(Opts::new("billing_build_info", "1, with the release"), &["version"])?;
        registry.register(Box::new(build_info.clone()))?;
        build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let lane_queue =
            IntGaugeVec::new(Opts::new("billing_lane_queue_postings", "Postings that wait in a lane"), &["lane"])?;
        registry.register(Box::new(lane_queue.clone()))?;
        Ok(Self {
            requests: counters(registry, "billing_requests_total", "Requests answered", &["rpc", "protocol", "code"])?,
            unknown_fields: counters(
                registry,
                "billing_unknown_fields_total",
                "Members and query parameters that no message has",
                &["route"],
            )?,
            lane_queue,
        })
    }

    /// Counts the unknown fields of one request.
    pub fn count_unknown_fields(&self, route: &str, count: u64) {
        self.unknown_fields.with_label_values(&[route]).inc_by(count);
    }

    /// Counts an answer. `rpc` and `code` must be from bounded sets.
    pub fn count(&self, rpc: &str, protocol: &str, code: &str) {
        self.requests.with_label_values(&[rpc, protocol, code]).inc();
    }

    /// Shows the postings that wait in each lane.
    pub fn set_lane_queues(&self, waiting: &[usize]) {
        for (lane, waiting) in waiting.iter().enumerate() {
            let waiting = i64::try_from(*waiting).unwrap_or(i64::MAX);
            self.lane_queue.with_label_values(&[&lane.to_string()]).set(waiting);
        }
    }
}
