//! The ways in which requests are seen from outside: metrics, log lines and traces.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{request_log::RequestLog, traces::Sampling};
use crate::{
    config::{Log, TelemetryConfig},
    metrics::Metrics,
};

/// The time in which lines and traces are counted.
const PERIOD: Duration = Duration::from_secs(1);

/// The parts that see each request.
#[derive(Clone)]
pub struct Sight {
    pub metrics: Arc<Metrics>,
    pub log: Arc<RequestLog>,
    pub sampling: Arc<Sampling>,
}

impl Sight {
    pub fn new(metrics: Arc<Metrics>, log: &Log, telemetry: &TelemetryConfig) -> Self {
        Self { metrics, log: Arc::new(RequestLog::new(log)), sampling: Arc::new(Sampling::new(telemetry)) }
    }

    /// Begins a new second again and again, until `stop`. Logs the numbers of lines and traces beyond their bounds.
    pub async fn keep(self, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(PERIOD)).await.is_some() {
            self.begin_second();
        }
        self.begin_second();
    }

    fn begin_second(&self) {
        self.log.begin_second();
        self.sampling.begin_second();
    }
}
