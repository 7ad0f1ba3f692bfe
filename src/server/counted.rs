//! The end of every request: counts it by its rpc, its protocol and its status code, and gives the code to its log line
//! and its span. The code of a gRPC call is in its trailers, after the body.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    response::Response,
};
use http::{HeaderMap, StatusCode};
use hyper::body::{Frame, SizeHint};

use tracing::Span;

use super::{request_log::Answered, sight::Sight};
use crate::{
    biz::values::spans,
    context::{self, RequestFacts},
};

/// The label of a request that is no rpc of the contract: health, reflection, unknown paths.
const OTHER: &str = "other";

/// The names of the codes, by number.
const GRPC_CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The codes of gRPC that are a fault of the server, by the conventions of OpenTelemetry.
const FAULTS: [&str; 6] = ["UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"];

/// The codes of gRPC after which a change may have been made.
const UNKNOWN_OUTCOMES: [&str; 5] = ["CANCELLED", "UNKNOWN", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE"];

/// One request. It counts when it is dropped. If the caller goes away before the answer, it counts
/// as CANCELLED.
pub struct Counted {
    sight: Sight,
    facts: Arc<RequestFacts>,
    span: Span,
    began: Instant,
    rpc: &'static str,
    is_grpc: bool,
    code: RequestCode,
}

/// A status code in the protocol of its request.
enum RequestCode {
    Grpc(&'static str),
    Http(StatusCode),
}

impl Counted {
    /// `rpc` is an rpc of the contract; `None` counts as any other request.
    pub fn begin(
        sight: Sight,
        rpc: Option<&'static str>,
        is_grpc: bool,
        (facts, span): (Arc<RequestFacts>, Span),
    ) -> Self {
        let (rpc, began, code) = (rpc.unwrap_or(OTHER), Instant::now(), RequestCode::Grpc("CANCELLED"));
        Self { sight, facts, span, began, rpc, is_grpc, code }
    }

    /// Takes the status code of the answer. It may follow the body.
    pub fn answer(mut self, response: Response) -> Response {
        if !self.is_grpc || response.status() != StatusCode::OK {
            self.code = RequestCode::Http(response.status());
            return response;
        }
        if self.read_status(response.headers()) {
            return response;
        }
        response.map(|body| Body::new(CountedBody { body, counted: self }))
    }

    /// Reads the status of a call. False if `headers` have none.
    fn read_status(&mut self, headers: &HeaderMap) -> bool {
        let Some(status) = headers.get("grpc-status") else { return false };
        let number = status.to_str().ok().and_then(|number| number.parse::<usize>().ok());
        let code = number.and_then(|number| GRPC_CODES.get(number)).copied();
        self.code = RequestCode::Grpc(code.unwrap_or("UNKNOWN"));
        true
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let protocol = if self.is_grpc { "grpc" } else { "http" };
        let (code, is_failure, is_fault, is_unknown) = match &self.code {
            RequestCode::Grpc(name) => (*name, *name != "OK", FAULTS.contains(name), UNKNOWN_OUTCOMES.contains(name)),
            RequestCode::Http(status) => {
                let is_fault = status.is_server_error();
                (status.as_str(), status.as_u16() >= 400, is_fault, is_fault)
            }
        };
        self.sight.metrics.requests.count(self.rpc, protocol, code);
        let is_rpc = self.rpc != OTHER;
        let answered = Answered { protocol, code, is_rpc, is_failure, is_unknown, took: self.began.elapsed() };
        context::within(&self.facts, || self.sight.log.note(&self.facts, answered));
        if !self.span.is_disabled() {
            self.end_span(code, is_failure, is_fault);
        }
    }
}

impl Counted {
    fn end_span(&self, code: &str, is_failure: bool, is_fault: bool) {
        match &self.code {
            RequestCode::Http(status) => self.span.record("http.response.status_code", status.as_u16()),
            RequestCode::Grpc(name) if self.is_grpc => self.span.record("rpc.response.status_code", name),
            // The caller went away before there was a status.
            RequestCode::Grpc(_) => &self.span,
        };
        if self.facts.is_replayed() {
            self.span.record("billing.replayed", true);
        }
        let reason = self.facts.reason().unwrap_or(code);
        if is_fault {
            spans::fail(&self.span, reason);
        } else if is_failure {
            // A refusal is the caller's doing: the conventions want no error on the side of the server.
            self.span.record("billing.reason", reason);
        }
    }
}

struct CountedBody {
    body: Body,
    counted: Counted,
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            self.counted.read_status(trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
