//! The layer that admits the callers of the internal service.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    Router,
    extract::{MatchedPath, Request},
    response::Response,
};
use futures_util::future::Either;
use tower::{Layer, Service};

use super::{callers::Callers, table};
use crate::{
    config::{Role, Style},
    context,
    server::listener::Connection,
    service::routes::{known_grpc_rpc, rest_rpc},
};

/// The check of one group of routes. It is a layer of its own type, because one from a function would clone and
/// box the routes for every request.
#[derive(Clone)]
pub struct Gate {
    pub callers: Arc<Callers>,
    pub style: Style,
    /// The roles of all routes of the group; `None` for those of the table.
    pub roles: Option<&'static [Role]>,
}

/// Adds the check to `routes`, if callers are configured. The check runs before the body is read.
pub fn protect<S: Clone + Send + Sync + 'static>(routes: Router<S>, gate: Gate) -> Router<S> {
    if gate.callers.are_open() {
        return routes;
    }
    routes.route_layer(gate)
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, routes: S) -> Gated<S> {
        Gated { routes, gate: self.clone() }
    }
}

#[derive(Clone)]
pub struct Gated<S> {
    routes: S,
    gate: Gate,
}

impl<S> Service<Request> for Gated<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Either<Ready<Result<Response, Infallible>>, S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.routes.poll_ready(context)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        if self.gate.callers.are_open() {
            return Either::Right(self.routes.call(request));
        }
        match self.gate.refuse(&mut request) {
            None => Either::Right(self.routes.call(request)),
            Some(refused) => Either::Left(ready(Ok(refused))),
        }
    }
}

impl Gate {
    /// Adds the caller to a request, or answers one without a proof of a role that may call the route.
    fn refuse(&self, request: &mut Request) -> Option<Response> {
        let roles = self.roles.or_else(|| table::roles(rpc(request)?)).unwrap_or_default();
        match self.callers.admit(request.headers(), request.extensions(), roles) {
            Ok(caller) => {
                if let Some(connection) = request.extensions().get::<Connection>() {
                    connection.prove();
                }
                context::read(|facts| facts.note_caller(&caller.name, caller.role));
                request.extensions_mut().insert(caller);
                None
            }
            Err(refused) => Some(refused.answer(request, self.style)),
        }
    }
}

fn rpc(request: &Request) -> Option<&'static str> {
    let of_rest = || rest_rpc(request.method(), request.extensions().get::<MatchedPath>()?.as_str());
    known_grpc_rpc(request.uri().path()).or_else(of_rest)
}
