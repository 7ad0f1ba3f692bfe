//! The calls of the rpcs, on a direct way: a router boxes and copies its routes for every request, which
//! costs a check a tenth of its time.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use axum::{Router, body::Body, extract::Request, response::Response};
use futures_util::{
    TryFutureExt,
    future::{Either, MapOk},
};
use tonic::{codegen::BoxFuture, server::NamedService};
use tower::{Service, ServiceExt, util::Oneshot};

use super::{access::Gated, bounds::Bounded, span::Identified};
use crate::service::{
    envoy::rate_limit_service_server::RateLimitServiceServer,
    grpc::Grpc,
    proto::{
        billing_internal_service_server::BillingInternalServiceServer, billing_service_server::BillingServiceServer,
    },
    routes::GRPC_CALLBACK_PATH,
};

/// A reply of tonic.
type Reply = http::Response<tonic::body::Body>;

/// The rpcs of all services.
#[derive(Clone)]
pub struct Rpcs {
    pub internal: BillingInternalServiceServer<Grpc>,
    pub public: BillingServiceServer<Grpc>,
    pub rate_limit: RateLimitServiceServer<Grpc>,
}

/// The rpcs with the checks and the bounds of each call.
type BoundedRpcs = Identified<Gated<Bounded<Rpcs>>>;

/// All requests of the internal port.
#[derive(Clone)]
pub struct InternalApp {
    /// The rpcs of callers.
    pub rpcs: BoundedRpcs,
    /// Everything else. The callback is here, because it proves its sender itself.
    pub others: Router,
}

impl Service<Request> for Rpcs {
    type Response = Response;
    type Error = Infallible;
    type Future = MapOk<BoxFuture<Reply, Infallible>, fn(Reply) -> Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // A service of tonic is always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let reply = if is_of::<BillingServiceServer<Grpc>>(&request) {
            self.public.call(request)
        } else if is_of::<RateLimitServiceServer<Grpc>>(&request) {
            self.rate_limit.call(request)
        } else {
            self.internal.call(request)
        };
        reply.map_ok(|reply| reply.map(Body::new))
    }
}

impl Service<Request> for InternalApp {
    type Response = Response;
    type Error = Infallible;
    type Future = Either<Oneshot<BoundedRpcs, Request>, Oneshot<Router, Request>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Each request gets a service of its own.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let is_rpc = is_of::<BillingInternalServiceServer<Grpc>>(&request)
            || is_of::<BillingServiceServer<Grpc>>(&request)
            || is_of::<RateLimitServiceServer<Grpc>>(&request);
        match is_rpc && request.uri().path() != GRPC_CALLBACK_PATH {
            true => Either::Left(self.rpcs.clone().oneshot(request)),
            false => Either::Right(self.others.clone().oneshot(request)),
        }
    }
}

/// Whether a request calls a method of the service, also one that it lacks.
fn is_of<S: NamedService>(request: &Request) -> bool {
    let path = request.uri().path().strip_prefix('/').and_then(|path| path.strip_prefix(S::NAME));
    path.is_some_and(|path| path.starts_with('/') && path.len() > 1)
}
