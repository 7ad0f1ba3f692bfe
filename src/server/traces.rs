//! The begin of each request: its facts, the decision whether it is traced, and the span of a traced one.

use std::{str::FromStr, sync::Arc};

use axum::extract::{MatchedPath, Request};
use http::{HeaderMap, Method, header::HOST, uri::Authority};
use opentelemetry::{
    Context, SpanId, TraceFlags, TraceId,
    trace::{SpanContext, TraceContextExt, TraceState},
};
use tracing::{Span, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::budget::Budget;
use crate::{
    biz::values::spans::{ROOT, TARGET},
    config::TelemetryConfig,
    context::{RequestFacts, TRACESTATE, TraceParent},
    service::{
        request::{RequestId, TRACE_ID, is_id},
        routes::grpc_rpc,
    },
};

/// Longest tracestate that goes on, in bytes.
const MAX_STATE: usize = 512;
/// Longest name of an unknown rpc in logs, in bytes.
const MAX_NAME: usize = 64;
/// The method of a call of an rpc that is none of the contract, and of a request with a method that HTTP does not know.
/// Callers choose such names.
const OTHER: &str = "_OTHER";
/// Longest address of a server on a span, in bytes. No name of a host is longer.
const MAX_HOST: usize = 253;

/// Decides which requests are traced. A parent decides for its request, within a number of requests a second: anyone
/// can send a parent.
#[derive(Debug)]
pub struct Sampling {
    is_on: bool,
    by_parent: Budget,
    /// A request without a parent is traced if its random number is below; `None` for every one.
    below: Option<u64>,
}

impl Sampling {
    pub fn new(config: &TelemetryConfig) -> Self {
        let by_parent = Budget::new(config.parents_per_second);
        Self { is_on: config.otlp_endpoint.is_some(), by_parent, below: config.sample_ratio.threshold() }
    }

    /// `is_rpc`: whether it calls an rpc of the contract. Probes and reads of metrics are never traced by chance.
    fn traces(&self, parent: Option<TraceParent>, is_rpc: bool) -> bool {
        let by_chance = || is_rpc && self.below.is_none_or(|below| fastrand::u64(..) < below);
        self.is_on
            && match parent {
                Some(parent) => parent.is_sampled && (self.by_parent.admits() || by_chance()),
                None => by_chance(),
            }
    }

    /// Begins a second. Logs the number of parents that did not decide.
    pub fn begin_second(&self) {
        let count = self.by_parent.begin_second();
        if count > 0 {
            tracing::info!(count, "more sampled traceparents than configured; left to chance");
        }
    }
}

/// A request at its begin. `rpc` is an rpc of the contract.
pub struct Arrived<'r> {
    pub request: &'r Request,
    pub rpc: Option<&'static str>,
    pub is_grpc: bool,
    pub id: &'r RequestId,
}

impl Arrived<'_> {
    /// The facts of the request for its log lines, and its span, which is disabled unless the request is traced.
    pub fn begin(&self, sampling: &Sampling) -> (Arc<RequestFacts>, Span) {
        let headers = self.request.headers();
        let parent = TraceParent::of(headers);
        let span = if sampling.traces(parent, self.rpc.is_some()) { self.span(parent) } else { Span::none() };
        let trace_id = match parent {
            Some(parent) => parent.trace_id,
            None if span.is_disabled() => fastrand::u128(1..),
            None => u128::from_be_bytes(span.context().span().span_context().trace_id().to_bytes()),
        };
        // A log may name any path of a gRPC call. A label of a metric may not.
        let unknown = || grpc_rpc(self.request.uri().path()).filter(|name| self.is_grpc && name.len() <= MAX_NAME);
        let rpc = self.rpc.map(Into::into).or_else(|| unknown().map(|name| name.to_owned().into()));
        let mut facts = RequestFacts::new(rpc, self.id.clone().into(), trace_id);
        facts.charge_header = headers.get(TRACE_ID).filter(|id| is_id(id)).cloned();
        if sampling.is_on && parent.is_none() && span.is_disabled() {
            facts.untraced_parent = Some(TraceParent { trace_id, span_id: fastrand::u64(1..), is_sampled: false });
        }
        (Arc::new(facts), span)
    }

    fn span(&self, parent: Option<TraceParent>) -> Span {
        let uri = self.request.uri();
        let route = self.request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
        let method = self.is_grpc.then(|| self.rpc.and(uri.path().strip_prefix('/')).unwrap_or(OTHER));
        let known = known_method(self.request.method());
        let http_method = (!self.is_grpc).then_some(known.unwrap_or(OTHER));
        let verb = known.unwrap_or("HTTP");
        let name = match (method, route) {
            (Some(method), _) => method.to_owned(),
            (None, Some(route)) => format!("{verb} {route}"),
            (None, None) => verb.to_owned(),
        };
        let server = authority(self.request).filter(|server| server.host().len() <= MAX_HOST);
        let span = tracing::info_span!(
            target: TARGET,
            ROOT,
            "otel.name" = name,
            "otel.kind" = "server",
            "otel.status_code" = Empty,
            "rpc.system.name" = self.is_grpc.then_some("grpc"),
            "rpc.method" = method,
            "rpc.response.status_code" = Empty,
            "http.request.method" = http_method,
            "http.route" = route.filter(|_| !self.is_grpc),
            "http.response.status_code" = Empty,
            "server.address" = server.as_ref().map(Authority::host),
            "server.port" = server.as_ref().and_then(Authority::port_u16),
            "error.type" = Empty,
            "billing.rpc" = self.rpc,
            "billing.request_id" = self.id.as_str(),
            "billing.replayed" = Empty,
            "billing.reason" = Empty,
            "gen_ai.request.model" = Empty,
            "gen_ai.response.model" = Empty,
            "gen_ai.usage.input_tokens" = Empty,
            "gen_ai.usage.output_tokens" = Empty,
        );
        if let Some(parent) = parent {
            // Fails for a disabled span alone.
            let _ = span.set_parent(remote(parent, self.request.headers()));
        }
        span
    }
}

/// The context of a caller's span.
fn remote(parent: TraceParent, headers: &HeaderMap) -> Context {
    let state = headers.get(TRACESTATE).filter(|state| state.len() <= MAX_STATE);
    let state = state.and_then(|state| TraceState::from_str(state.to_str().ok()?).ok()).unwrap_or_default();
    let flags = if parent.is_sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let (trace_id, span_id) = (TraceId::from(parent.trace_id), SpanId::from(parent.span_id));
    Context::new().with_remote_span_context(SpanContext::new(trace_id, span_id, flags, true, state))
}

/// The name of a method, if it is one of HTTP.
fn known_method(method: &Method) -> Option<&'static str> {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    KNOWN.into_iter().find(|known| *known == method.as_str())
}

/// The address that the caller has used.
fn authority(request: &Request) -> Option<Authority> {
    let host = || request.headers().get(HOST)?.to_str().ok()?.parse().ok();
    request.uri().authority().cloned().or_else(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling(endpoint: Option<&str>, ratio: &str) -> Sampling {
        let config = serde_json::json!({
            "otlp_endpoint": endpoint.unwrap_or_default(), "sample_ratio": ratio, "parents_per_second": "2",
        });
        Sampling::new(&serde_json::from_value(config).unwrap())
    }

    #[test]
    fn the_parent_decides_whether_a_request_is_traced() {
        let parent = |is_sampled| Some(TraceParent { trace_id: 1, span_id: 1, is_sampled });
        for ratio in ["0", "1"] {
            let on = sampling(Some("http://127.0.0.1:4317"), ratio);
            assert_eq!((on.traces(parent(true), false), on.traces(parent(false), true)), (true, false));
            assert_eq!((on.traces(None, true), on.traces(None, false)), (ratio == "1", false));
            assert!(!sampling(None, ratio).traces(parent(true), true), "without a collector nothing is traced");
        }
    }

    #[test]
    fn parents_beyond_the_bound_of_a_second_leave_the_decision_to_chance() {
        let parent = |is_sampled| Some(TraceParent { trace_id: 1, span_id: 1, is_sampled });
        for ratio in ["0", "1"] {
            let on = sampling(Some("http://127.0.0.1:4317"), ratio);
            for _ in 0..2 {
                assert!(!on.traces(parent(false), true), "it takes nothing from the bound");
                assert_eq!([0; 2].map(|_| on.traces(parent(true), true)), [true; 2]);
                assert_eq!(on.traces(parent(true), true), ratio == "1");
                assert!(!on.traces(parent(true), false), "a probe is never traced by chance");
                on.begin_second();
            }
        }
    }

    #[test]
    fn a_method_that_http_does_not_know_has_no_name() {
        let name = |method: &[u8]| known_method(&Method::from_bytes(method).unwrap());
        assert_eq!([name(b"PATCH"), name(b"BREW"), name(b"get")], [Some("PATCH"), None, None]);
    }

    #[test]
    fn about_the_ratio_of_requests_without_a_parent_is_traced() {
        let on = sampling(Some("http://127.0.0.1:4317"), "0.1");
        let traced = (0..100_000).filter(|_| on.traces(None, true)).count();
        assert!((9_000..11_000).contains(&traced), "{traced}");
    }
}
