//! Counts every request by its rpc, its protocol and its code. The code of a gRPC call stands in
//! its trailers, behind the body.

use std::{
    borrow::Cow,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderMap, StatusCode};
use hyper::body::{Frame, SizeHint};

use super::request::is_grpc;
use crate::{
    metrics::Metrics,
    service::routes::{known_grpc_rpc, rest_rpc},
};

/// The label of a request that is no rpc of the contract: health, reflection, unknown paths.
const OTHER: &str = "other";

/// By number.
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

pub async fn count(State(metrics): State<Arc<Metrics>>, request: Request, next: Next) -> Response {
    let is_grpc = is_grpc(&request);
    let mut counted = Counted::begin(metrics, &request, is_grpc);
    let response = next.run(request).await;
    if !is_grpc || response.status() != StatusCode::OK {
        counted.code = response.status().as_u16().to_string().into();
        return response;
    }
    if counted.read_status(response.headers()) {
        return response;
    }
    response.map(|body| Body::new(CountedBody { body, counted }))
}

/// One request. It counts when it is dropped; a caller that goes away before is CANCELLED.
struct Counted {
    metrics: Arc<Metrics>,
    rpc: &'static str,
    protocol: &'static str,
    code: Cow<'static, str>,
}

impl Counted {
    fn begin(metrics: Arc<Metrics>, request: &Request, is_grpc: bool) -> Self {
        let rpc = if is_grpc {
            known_grpc_rpc(request.uri().path())
        } else {
            let route = request.extensions().get::<MatchedPath>();
            route.and_then(|route| rest_rpc(request.method(), route.as_str()))
        };
        let protocol = if is_grpc { "grpc" } else { "http" };
        Self { metrics, rpc: rpc.unwrap_or(OTHER), protocol, code: "CANCELLED".into() }
    }

    /// Whether `headers` have the status of a call.
    fn read_status(&mut self, headers: &HeaderMap) -> bool {
        let Some(status) = headers.get("grpc-status") else { return false };
        let number = status.to_str().ok().and_then(|number| number.parse::<usize>().ok());
        self.code = number.and_then(|number| GRPC_CODES.get(number)).copied().unwrap_or("UNKNOWN").into();
        true
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.metrics.requests.count(self.rpc, self.protocol, &self.code);
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
