//! Times charges and reserves in flight, and counts those that end without an outcome.

use std::time::Instant;

use super::charges::{ChargeMetrics, Operation};

/// One operation, from the call to its outcome. If the deadline of the request passes, or the
/// caller goes away, it is dropped without an outcome and counts as a failure with the reason
/// `overloaded`, the error that the caller gets. Otherwise an outage in which all callers give up
/// would show in no metric.
pub struct InFlight<'m> {
    metrics: &'m ChargeMetrics,
    operation: Operation,
    started: Instant,
    has_outcome: bool,
}

impl<'m> InFlight<'m> {
    pub(super) fn begin(metrics: &'m ChargeMetrics, operation: Operation) -> Self {
        Self { metrics, operation, started: Instant::now(), has_outcome: false }
    }

    /// Ends the operation with an outcome, which the caller counts.
    pub fn end(mut self) {
        self.has_outcome = true;
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.metrics.observe(self.operation, self.started.elapsed());
        if !self.has_outcome {
            self.metrics.count_abandoned(self.operation);
        }
    }
}
