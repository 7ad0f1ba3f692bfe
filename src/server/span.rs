//! The span, the id and the count around every request of a port, and the answer in place of a panic: one
//! layer, because each layer costs every request some allocations.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    extract::{MatchedPath, Request},
    response::Response,
};
use http::StatusCode;
use tower::{Layer, Service};
use tracing::Instrument;

use super::{counted::Counted, http_error::http_error, panics, request::is_grpc};
use crate::{
    biz::values::error::Error,
    config::Style,
    metrics::Metrics,
    service::{
        errors,
        request::{REQUEST_ID, RequestId, span},
        rest::Replier,
        routes::{grpc_rpc, known_grpc_rpc, rest_rpc},
    },
};

/// Runs each request in its span, names its id to the handler and in the reply, and counts it. It is a layer of
/// its own type, because one from a function would clone and box the routes for every request.
#[derive(Clone)]
pub struct Identify {
    pub metrics: Arc<Metrics>,
    pub style: Style,
}

impl<S> Layer<S> for Identify {
    type Service = Identified<S>;

    fn layer(&self, routes: S) -> Identified<S> {
        Identified { routes, identify: self.clone() }
    }
}

#[derive(Clone)]
pub struct Identified<S> {
    routes: S,
    identify: Identify,
}

impl<S> Service<Request> for Identified<S>
where
    S: Service<Request, Response = Response, Error = Infallible, Future: Send + 'static>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.routes.poll_ready(context)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let (id, is_grpc) = (RequestId::of(request.headers()), is_grpc(&request));
        let rpc = known_rpc(&request, is_grpc);
        // A log may name any path of a gRPC call. A label of a metric may not.
        let named = || rpc.or_else(|| grpc_rpc(request.uri().path()).filter(|_| is_grpc));
        let span = span(named, request.headers(), &id);
        let Identify { metrics, style } = self.identify.clone();
        let counted = Counted::begin(metrics.clone(), rpc, is_grpc);
        request.extensions_mut().insert(id.clone());
        let refusal = Refusal { is_grpc, style, id: id.clone() };
        let answer = span.in_scope(|| self.routes.call(request));
        Box::pin(async move {
            let mut response = counted.answer(panics::contain(answer, refusal, &metrics).instrument(span).await);
            response.headers_mut().insert(REQUEST_ID, id.into());
            Ok(response)
        })
    }
}

/// The rpc of the contract that a request calls.
fn known_rpc(request: &Request, is_grpc: bool) -> Option<&'static str> {
    if is_grpc {
        return known_grpc_rpc(request.uri().path());
    }
    rest_rpc(request.method(), request.extensions().get::<MatchedPath>()?.as_str())
}

/// Answers a request that reaches no handler.
pub struct Refusal {
    is_grpc: bool,
    style: Style,
    id: RequestId,
}

impl Refusal {
    pub fn of(request: &Request, style: Style) -> Self {
        Self { is_grpc: is_grpc(request), style, id: RequestId::beside(request.extensions()) }
    }

    /// Answers a request that ran into its deadline.
    pub fn late(self) -> Response {
        let message = match self.id.retry_id() {
            Some((field, _)) => {
                format!("the request took too long, and the outcome is unknown; a retry with the same {field} finds it")
            }
            None => "the request took too long; retry later".into(),
        };
        self.answer(&Error::Overloaded(message.into()))
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
