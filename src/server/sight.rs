//! The ways in which requests are seen from outside: metrics, log lines and traces.

use std::sync::Arc;

use super::{request_log::RequestLog, traces::Sampling};
use crate::{
    config::{Log, TelemetryConfig},
    metrics::Metrics,
};

/// The parts that see each request.
#[derive(Clone)]
pub struct Sight {
    pub metrics: Arc<Metrics>,
    pub log: Arc<RequestLog>,
    pub sampling: Sampling,
}

impl Sight {
    pub fn new(metrics: Arc<Metrics>, log: &Log, telemetry: &TelemetryConfig) -> Self {
        Self { metrics, log: Arc::new(RequestLog::new(log)), sampling: Sampling::new(telemetry) }
    }
}
