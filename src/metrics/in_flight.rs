//! Charges and reserves under way, timed and counted however they end.

use std::time::Instant;

use super::{Metrics, OVERLOADED};

/// What charges or holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Deduct,
    Reserve,
    Commit,
}

/// One of them, from the call to its outcome. When the deadline of the request ends, or the
/// caller goes away, it is dropped without one and counts as a failure: what a caller is
/// told then is OVERLOADED, and an outage in which nobody waits for the outcome would
/// otherwise show in no metric.
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

    /// It ends with an outcome, which the caller of this counts.
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
