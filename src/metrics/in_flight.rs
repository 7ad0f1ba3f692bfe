//! Charges, reserves and commits in flight: timed and counted however they end.

use std::time::Instant;

use super::charges::ChargeMetrics;

/// What charges or holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Deduct,
    Reserve,
    Commit,
}

impl Operation {
    /// The label of the operation.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Deduct => "deduct",
            Self::Reserve => "reserve",
            Self::Commit => "commit",
        }
    }
}

/// One operation, from the call to its outcome. When the deadline of the request ends, or the
/// caller goes away, it is dropped without an outcome and counts as a failure: the caller
/// reads OVERLOADED then, and an outage in which nobody waits for the outcome would otherwise
/// show in no metric.
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

    /// It ends with an outcome, which the caller of this counts.
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
