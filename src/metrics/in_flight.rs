//! Times charges and reserves in flight, and counts those that end without an outcome.

use std::time::Instant;

use super::{Metrics, OVERLOADED};

/// An operation that charges or holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Deduct,
    Reserve,
    Commit,
}

/// One operation, from the call to its outcome. If the deadline of the request passes, or the
/// caller goes away, it is dropped without an outcome and counts as a failure with the reason
/// `overloaded`, the error that the caller gets. Otherwise an outage in which all callers give up
/// would show in no metric.
pub struct InFlight<'m> {
    metrics: &'m Metrics,
    operation: Operation,
    started: Instant,
    has_outcome: bool,
}

impl<'m> InFlight<'m> {
    pub fn begin(metrics: &'m Metrics, operation: Operation) -> Self {
        Self { metrics, operation, started: Instant::now(), has_outcome: false }
    }

    /// Ends the operation with an outcome, which the caller counts.
    pub fn end(mut self) {
        self.has_outcome = true;
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let (metrics, seconds) = (self.metrics, self.started.elapsed().as_secs_f64());
        let name = match self.operation {
            Operation::Deduct => "deduct",
            Operation::Reserve => "reserve",
            Operation::Commit => "commit",
        };
        metrics.duration_ms.with_label_values(&[name]).observe(seconds * 1000.0);
        if self.operation == Operation::Deduct {
            metrics.quota_deduct_duration_seconds.observe(seconds);
        }
        if !self.has_outcome {
            match self.operation {
                Operation::Deduct => &metrics.deduct_failure,
                Operation::Reserve => &metrics.reserve_failure,
                Operation::Commit => {
                    metrics.stream_failed.inc();
                    &metrics.deduct_failure
                }
            }
            .with_label_values(&[OVERLOADED])
            .inc();
        }
    }
}
