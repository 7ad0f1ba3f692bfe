//! The span, the id, the count and the log line around every request of a port, and the answer in place of a panic:
//! one layer, because each layer costs every request some allocations.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    extract::{MatchedPath, Request},
    response::Response,
};
use futures_util::FutureExt;
use http::HeaderValue;
use tower::{Layer, Service};
use tracing::Instrument;

use super::{counted::Counted, panics, refusal::Refusal, request::is_grpc, sight::Sight, traces::Arrived};
use crate::{
    config::Style,
    context,
    service::{
        request::{REQUEST_ID, RequestId},
        routes::{known_grpc_rpc, rest_rpc},
    },
};

/// Runs each request in its span, names its id to the handler and in the reply, and counts it. It is a layer of
/// its own type, because one from a function would clone and box the routes for every request.
#[derive(Clone)]
pub struct Identify {
    pub sight: Sight,
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
        let Identify { sight, style } = self.identify.clone();
        let (facts, span) = Arrived { request: &request, rpc, is_grpc, id: &id }.begin(&sight.sampling);
        let metrics = sight.metrics.clone();
        let counted = Counted::begin(sight, rpc, is_grpc, (facts.clone(), span.clone()));
        request.extensions_mut().insert(id.clone());
        let refusal = Refusal { is_grpc, style, id: id.clone() };
        let answer = context::within(&facts, || span.in_scope(|| self.routes.call(request)));
        let answer = context::scope(facts, panics::contain(answer, refusal, metrics).instrument(span));
        Box::pin(answer.map(|answer| {
            let mut response = counted.answer(answer);
            let mut id = HeaderValue::from(id);
            // Otherwise HTTP/2 keeps it in its table of headers, where it takes the place of one that comes again.
            id.set_sensitive(true);
            response.headers_mut().insert(REQUEST_ID, id);
            Ok(response)
        }))
    }
}

/// The rpc of the contract that a request calls.
fn known_rpc(request: &Request, is_grpc: bool) -> Option<&'static str> {
    if is_grpc {
        return known_grpc_rpc(request.uri().path());
    }
    rest_rpc(request.method(), request.extensions().get::<MatchedPath>()?.as_str())
}
