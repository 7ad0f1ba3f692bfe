//! The log line of each request, within a number of lines a second.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use tracing::Level;

use crate::{
    biz::audit_trail::AUDITED_RPCS,
    config::{Log, RequestLines},
    context::RequestFacts,
};

/// The time in which lines are counted.
const PERIOD: Duration = Duration::from_secs(1);

/// Chooses the requests that get a line.
pub struct RequestLog {
    requests: RequestLines,
    slow: Duration,
    per_second: u32,
    plain: Budget,
    /// Lines of requests that failed or were slow. They have a budget of their own, so that a busy server shows them.
    notable: Budget,
}

/// The lines that may still be written in this second.
struct Budget {
    left: AtomicU32,
    left_out: AtomicU64,
}

/// The end of a request.
#[derive(Debug, Clone, Copy)]
pub struct Answered<'a> {
    pub protocol: &'static str,
    pub code: &'a str,
    /// Whether it called an rpc of the contract.
    pub is_rpc: bool,
    pub is_failure: bool,
    pub took: Duration,
}

impl RequestLog {
    pub fn new(config: &Log) -> Self {
        let budget = || Budget { left: AtomicU32::new(config.requests_per_second), left_out: AtomicU64::new(0) };
        Self {
            requests: config.requests,
            slow: config.slow_request,
            per_second: config.requests_per_second,
            plain: budget(),
            notable: budget(),
        }
    }

    /// Begins a new second again and again, until `stop`. Logs the number of lines that were left out.
    pub async fn keep(&self, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(PERIOD)).await.is_some() {
            self.begin_second();
        }
        self.begin_second();
    }

    fn begin_second(&self) {
        let (plain, notable) = (self.plain.refill(self.per_second), self.notable.refill(self.per_second));
        if plain + notable > 0 {
            tracing::info!(left_out = plain, left_out_failed_or_slow = notable, "lines of requests left out");
        }
    }

    /// Writes the line of a request, if it gets one.
    pub fn note(&self, request: &RequestFacts, answered: Answered<'_>) {
        if !tracing::event_enabled!(Level::INFO) {
            return;
        }
        // An operator's action is rare, and changes something, so it always has its line.
        if !answered.is_failure && request.rpc.as_deref().is_some_and(|rpc| AUDITED_RPCS.contains(&rpc)) {
            let role = request.caller().map_or("none", |(_, role)| role);
            return write(request, answered, Some(role));
        }
        let is_slow = answered.took >= self.slow;
        let is_wanted = match self.requests {
            // Probes of health and readers of metrics come all the time.
            RequestLines::All => answered.is_rpc || answered.is_failure || is_slow,
            RequestLines::Errors => answered.is_failure,
            RequestLines::Slow => is_slow,
            RequestLines::None => false,
        };
        let budget = if answered.is_failure || is_slow { &self.notable } else { &self.plain };
        if is_wanted && budget.admits() {
            write(request, answered, None);
        }
    }
}

impl Budget {
    fn admits(&self) -> bool {
        // A busy server mostly finds nothing left, which costs no write of it.
        let is_left =
            self.left.load(Relaxed) > 0 && self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
        if !is_left {
            self.left_out.fetch_add(1, Relaxed);
        }
        is_left
    }

    /// Returns the number of lines that were left out.
    fn refill(&self, lines: u32) -> u64 {
        self.left.store(lines, Relaxed);
        self.left_out.swap(0, Relaxed)
    }
}

/// `role` is that of an operator whose action it was.
fn write(request: &RequestFacts, answered: Answered<'_>, role: Option<&str>) {
    let Answered { protocol, code, is_failure, took, .. } = answered;
    let reason = request.reason().filter(|_| is_failure);
    let duration_ms = (took.as_secs_f64() * 1e6).round() / 1e3;
    let replayed = request.is_replayed();
    match role {
        Some(role) => tracing::info!(protocol, code, duration_ms, replayed, role, "operator acted"),
        None => tracing::info!(protocol, code, reason, duration_ms, replayed, "request answered"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_bound_are_counted_until_the_next_second() {
        let budget = Budget { left: AtomicU32::new(2), left_out: AtomicU64::new(0) };
        assert_eq!([budget.admits(), budget.admits(), budget.admits(), budget.admits()], [true, true, false, false]);
        assert_eq!(budget.refill(1), 2);
        assert_eq!([budget.admits(), budget.admits()], [true, false]);
        assert_eq!(budget.refill(1), 1);
        assert_eq!(budget.refill(1), 0);
    }
}
