//! The span and the id around every request of a port.

use axum::{
    extract::{MatchedPath, Request},
    middleware::Next,
    response::Response,
};
use http::StatusCode;
use tracing::Instrument;

use super::{http_error::http_error, request::is_grpc};
use crate::{
    biz::values::error::Error,
    config::Style,
    service::{
        errors,
        request::{REQUEST_ID, RequestId, span},
        rest::Replier,
        routes::{grpc_rpc, rest_rpc},
    },
};

/// Runs a request in its span, and names its id to the handler and in the reply.
pub async fn identify(mut request: Request, next: Next) -> Response {
    let id = RequestId::of(request.headers());
    let span = span(|| rpc(&request), request.headers(), &id);
    request.extensions_mut().insert(id.clone());
    let mut response = next.run(request).instrument(span).await;
    response.headers_mut().insert(REQUEST_ID, id.into());
    response
}

fn rpc(request: &Request) -> Option<&str> {
    if is_grpc(request) {
        return grpc_rpc(request.uri().path());
    }
    rest_rpc(request.method(), request.extensions().get::<MatchedPath>()?.as_str())
}

/// Answers a request that no handler gets.
pub struct Refusal {
    is_grpc: bool,
    style: Style,
    id: RequestId,
}

impl Refusal {
    pub fn of(request: &Request, style: Style) -> Self {
        Self { is_grpc: is_grpc(request), style, id: RequestId::beside(request.extensions()) }
    }

    /// For a request that did not arrive in full. Nothing was done, so it may be sent again.
    pub fn incomplete(self) -> Response {
        let message = "the request did not arrive in full, and nothing was done; send it again";
        if self.is_grpc {
            return self.answer(&Error::Overloaded(message.into()));
        }
        http_error(self.style, StatusCode::REQUEST_TIMEOUT, "REQUEST_TIMEOUT", message)
    }

    pub fn answer(self, error: &Error) -> Response {
        if self.is_grpc {
            errors::log(error, &self.id);
            errors::status(error, &self.id).into_http()
        } else {
            Replier::new(self.style, self.id).fail(error)
        }
    }
}
