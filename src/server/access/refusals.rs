//! Counts and logs the requests that are refused for their caller.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use axum::{extract::Request, response::Response};
use http::{HeaderValue, StatusCode, header::WWW_AUTHENTICATE};

use crate::{biz::values::error::Error, config::Style, metrics::Metrics, server::span::Refusal};

/// Most log lines a second about refusals. Peers decide how many refusals there are.
const MAX_LINES: u64 = 10;

/// The reason of a refusal, as a label of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// There is no proof.
    Missing,
    /// The proof is malformed, or no caller has it.
    Invalid,
    /// The token has expired, or is not valid yet.
    Expired,
    /// The token is for another audience or from another issuer.
    Audience,
    /// The keys of the issuer are not available.
    Unavailable,
    /// Too many wrong tokens came from the address.
    Guesses,
    /// The caller has no role for the rpc.
    Role,
    /// The account is not that of the proof, or the proof allows reads only.
    Account,
    /// The request comes from a page of another origin.
    Origin,
    /// The name of the server is not expected.
    Host,
}

impl Reason {
    fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Invalid => "invalid",
            Self::Expired => "expired",
            Self::Audience => "audience",
            Self::Unavailable => "unavailable",
            Self::Guesses => "guesses",
            Self::Role => "role",
            Self::Account => "account",
            Self::Origin => "origin",
            Self::Host => "host",
        }
    }
}

/// A refused request: the reason, and the error for the caller.
#[derive(Debug)]
pub struct Refused {
    pub reason: Reason,
    pub error: Error,
}

impl Refused {
    pub fn unauthenticated(reason: Reason, why: impl Into<String>) -> Self {
        Self { reason, error: Error::Unauthenticated(why.into()) }
    }

    pub fn denied(reason: Reason, why: impl Into<String>) -> Self {
        Self { reason, error: Error::PermissionDenied(why.into()) }
    }
}

impl Refused {
    /// The answer to the request, in the given style.
    pub fn answer(&self, request: &Request, style: Style) -> Response {
        let mut response = Refusal::of(request, style).answer(&self.error);
        if response.status() == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// The name of a caller without a proof, in metrics and logs.
pub const UNKNOWN: &str = "unknown";
/// The name of all users of the front end, in metrics and logs.
pub const USER: &str = "user";

/// Counts and logs.
pub struct Refusals {
    metrics: Arc<Metrics>,
    started: Instant,
    /// The current second since the start, and the lines of it: the second in the upper half.
    lines: AtomicU64,
    /// Lines left out since the last one.
    left_out: AtomicU64,
}

impl Refusals {
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, started: Instant::now(), lines: AtomicU64::new(0), left_out: AtomicU64::new(0) }
    }

    /// `caller` is a configured name, [`USER`] or [`UNKNOWN`].
    pub fn note(&self, caller: &str, reason: Reason, address: Option<IpAddr>) {
        self.metrics.requests.count_refused(caller, reason.name());
        if self.may_log() {
            let left_out = self.left_out.swap(0, Relaxed);
            let address = address.map(tracing::field::display);
            tracing::warn!(caller, reason = reason.name(), address, left_out, "request refused");
        } else {
            self.left_out.fetch_add(1, Relaxed);
        }
    }

    fn may_log(&self) -> bool {
        let second = self.started.elapsed().as_secs() & u64::from(u32::MAX);
        let next = |lines: u64| {
            if lines >> 32 != second {
                return Some(second << 32 | 1);
            }
            ((lines & u64::from(u32::MAX)) < MAX_LINES).then_some(lines + 1)
        };
        self.lines.fetch_update(Relaxed, Relaxed, next).is_ok()
    }
}
