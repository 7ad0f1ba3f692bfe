//! Counts every request by its rpc, its protocol and its status code. The code of a gRPC call is in
//! its trailers, after the body.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{
    body::{Body, Bytes, HttpBody},
    response::Response,
};
use http::{HeaderMap, StatusCode};
use hyper::body::{Frame, SizeHint};

use crate::metrics::Metrics;

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

/// One request. It counts when it is dropped. If the caller goes away before the answer, it counts
/// as CANCELLED.
pub struct Counted {
    metrics: Arc<Metrics>,
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
    pub fn begin(metrics: Arc<Metrics>, rpc: Option<&'static str>, is_grpc: bool) -> Self {
        Self { metrics, rpc: rpc.unwrap_or(OTHER), is_grpc, code: RequestCode::Grpc("CANCELLED") }
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
        let code = match &self.code {
            RequestCode::Grpc(name) => name,
            RequestCode::Http(status) => status.as_str(),
        };
        self.metrics.requests.count(self.rpc, protocol, code);
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
