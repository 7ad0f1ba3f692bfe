//! Counts and logs the requests that are refused for their caller.

use std::{net::IpAddr, sync::Arc};

use axum::{extract::Request, response::Response};
use http::{HeaderValue, StatusCode, header::WWW_AUTHENTICATE};

use crate::{
    biz::{limits::lines::Lines, values::error::Error},
    config::Style,
    metrics::Metrics,
    server::refusal::Refusal,
};

/// The reason of a refusal, as a label of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// There is no proof.
    Missing,
    /// The gateway names no user.
    Identity,
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
    /// Whether the peer is at fault, and not one of its users or the issuer of their tokens. A gateway that names
    /// no user has proven itself, and its other users share its connection.
    fn is_of_peer(self) -> bool {
        match self {
            Self::Missing | Self::Invalid | Self::Expired | Self::Audience | Self::Guesses | Self::Role => true,
            Self::Identity | Self::Unavailable | Self::Account | Self::Origin | Self::Host => false,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Identity => "identity",
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
        let refusal = Refusal::of(request, style);
        let is_of_peer = self.reason.is_of_peer();
        let mut response = if is_of_peer { refusal.paced(&self.error) } else { refusal.answer(&self.error) };
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
    lines: Lines,
}

impl Refusals {
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, lines: Lines::default() }
    }

    /// `caller` is a configured name, [`USER`] or [`UNKNOWN`].
    pub fn note(&self, caller: &str, reason: Reason, address: Option<IpAddr>) {
        self.metrics.requests.count_refused(caller, reason.name());
        if let Some(left_out) = self.lines.admit() {
            let address = address.map(tracing::field::display);
            tracing::warn!(caller, reason = reason.name(), address, left_out, "request refused");
        }
    }
}
