//! The log line of each request, within a number of lines a second.

use std::time::Duration;

use tracing::Level;

use super::budget::Budget;
use crate::{
    biz::audit_trail::AUDITED_RPCS,
    config::{Log, RequestLines, Role},
    context::RequestFacts,
};

/// Chooses the requests that get a line.
pub struct RequestLog {
    requests: RequestLines,
    slow: Duration,
    plain: Budget,
    /// Lines of requests that failed or were slow. They have a budget of their own, so that a busy server shows them.
    notable: Budget,
}

/// The end of a request.
#[derive(Debug, Clone, Copy)]
pub struct Answered<'a> {
    pub protocol: &'static str,
    pub code: &'a str,
    /// Whether it called an rpc of the contract.
    pub is_rpc: bool,
    pub is_failure: bool,
    /// Whether it may have changed something although it failed.
    pub is_unknown: bool,
    pub took: Duration,
}

impl RequestLog {
    pub fn new(config: &Log) -> Self {
        let budget = || Budget::new(config.requests_per_second);
        Self { requests: config.requests, slow: config.slow_request, plain: budget(), notable: budget() }
    }

    /// Begins a second. Logs the number of lines that were left out.
    pub fn begin_second(&self) {
        let (plain, notable) = (self.plain.begin_second(), self.notable.begin_second());
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
        if let Some(role) = operator(request, answered) {
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

/// The role of an operator whose call has changed something, or may have. `None` for any other call, and for that of
/// a machine that opens users and sets quotas of keys.
fn operator<'r>(request: &'r RequestFacts, answered: Answered<'_>) -> Option<&'r str> {
    if !request.rpc.as_deref().is_some_and(|rpc| AUDITED_RPCS.contains(&rpc)) {
        return None;
    }
    match request.caller() {
        Some((_, role)) if role == Role::Keys.name() => None,
        Some((_, role)) => (!answered.is_failure || answered.is_unknown).then_some(role),
        None => (!answered.is_failure).then_some("none"),
    }
}

/// `role` is that of an operator whose action it was.
fn write(request: &RequestFacts, answered: Answered<'_>, role: Option<&str>) {
    let Answered { protocol, code, is_failure, took, .. } = answered;
    let reason = request.reason().filter(|_| is_failure);
    let duration_ms = (took.as_secs_f64() * 1e6).round() / 1e3;
    let replayed = request.is_replayed();
    match role {
        Some(role) if is_failure => {
            tracing::info!(protocol, code, reason, duration_ms, role, "outcome of an operator's call unknown");
        }
        Some(role) => tracing::info!(protocol, code, duration_ms, replayed, role, "operator acted"),
        None => tracing::info!(protocol, code, reason, duration_ms, replayed, "request answered"),
    }
}
