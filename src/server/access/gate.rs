//! The layer that admits the callers of the internal service.

use std::sync::Arc;

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    middleware::{self, Next},
    response::Response,
};

use super::{callers::Callers, table};
use crate::{
    config::{Role, Style},
    server::listener::Connection,
    service::routes::{known_grpc_rpc, rest_rpc},
};

/// The check of one group of routes.
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
    routes.route_layer(middleware::from_fn_with_state(gate, check))
}

async fn check(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    let roles = gate.roles.or_else(|| table::roles(rpc(&request)?)).unwrap_or_default();
    match gate.callers.admit(request.headers(), request.extensions(), roles) {
        Ok(caller) => {
            if let Some(connection) = request.extensions().get::<Connection>() {
                connection.prove();
            }
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(refused) => refused.answer(&request, gate.style),
    }
}

fn rpc(request: &Request) -> Option<&'static str> {
    let of_rest = || rest_rpc(request.method(), request.extensions().get::<MatchedPath>()?.as_str());
    known_grpc_rpc(request.uri().path()).or_else(of_rest)
}
