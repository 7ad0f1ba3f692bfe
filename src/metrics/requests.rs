//! Requests of both protocols, and the release that serves them.

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::{
    registration::{counters, gauge},
    scale,
};
use crate::biz::settlement::engine::ParkingSize;

pub struct RequestMetrics {
    /// By rpc, protocol (grpc, http) and the code in that protocol.
    requests: IntCounterVec,
    /// By route, as the router has it.
    unknown_fields: IntCounterVec,
    /// By the name of the caller, and the reason.
    refused: IntCounterVec,
    /// 1 while `server.insecure` allows open doors.
    insecure: IntGauge,
    /// Postings that wait, by lane.
    lane_queue: IntGaugeVec,
    parked_accounts: IntGauge,
    parked_postings: IntGauge,
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
            refused: counters(
                registry,
                "billing_access_refused_total",
                "Requests refused for their caller, with 401 or 403",
                &["caller", "reason"],
            )?,
            insecure: gauge(registry, "billing_insecure", "1 while server.insecure allows open doors in production")?,
            lane_queue,
            parked_accounts: gauge(
                registry,
                "billing_parked_accounts",
                "Accounts that are settled beside their lane, because of a lock or a failure",
            )?,
            parked_postings: gauge(registry, "billing_parked_postings", "Postings of parked accounts")?,
        })
    }

    /// Counts the unknown fields of one request.
    pub fn count_unknown_fields(&self, route: &str, count: u64) {
        self.unknown_fields.with_label_values(&[route]).inc_by(count);
    }

    /// Counts a request that was refused for its caller. Both labels must be from bounded sets.
    pub fn count_refused(&self, caller: &str, reason: &str) {
        self.refused.with_label_values(&[caller, reason]).inc();
    }

    /// Shows that `server.insecure` allows open doors.
    pub fn set_insecure(&self) {
        self.insecure.set(1);
    }

    /// Counts an answer. `rpc` and `code` must be from bounded sets.
    pub fn count(&self, rpc: &str, protocol: &str, code: &str) {
        self.requests.with_label_values(&[rpc, protocol, code]).inc();
    }

    /// Shows the postings that wait in each lane.
    pub fn set_lane_queues(&self, waiting: &[usize]) {
        for (lane, waiting) in waiting.iter().enumerate() {
            self.lane_queue.with_label_values(&[&lane.to_string()]).set(scale::gauge(*waiting as u64));
        }
    }

    /// Shows the accounts and postings that wait beside the lanes.
    pub fn set_parked(&self, parked: ParkingSize) {
        self.parked_accounts.set(scale::gauge(parked.accounts as u64));
        self.parked_postings.set(scale::gauge(parked.postings as u64));
    }
}
