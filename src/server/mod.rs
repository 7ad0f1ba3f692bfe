//! Transport: what listens where, and what surrounds the routes of the service layer.

mod auth;
mod bounds;
mod callback;
mod listener;
mod ops;
mod request;
mod span;

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    middleware,
    response::Response,
};
use http::StatusCode;
use tokio::sync::Semaphore;
use tonic::{server::NamedService, service::Routes};
use tonic_health::ServingStatus;

use self::{bounds::Bounds, request::is_grpc};
pub use self::{
    callback::CallbackGuard,
    listener::{ListenerLimits, METERING_WINDOW, reachable, serve},
    ops::Ops,
};
use crate::{
    config::{Server, Style},
    service::{
        errors::ErrorBody,
        grpc::Grpc,
        proto::{
            DESCRIPTORS, billing_internal_service_server::BillingInternalServiceServer,
            billing_service_server::BillingServiceServer,
        },
        rest::{self, Rest},
        routes::GRPC_CALLBACK_PATH,
    },
};

/// What both ports are made of.
#[derive(Clone)]
pub struct Parts<'c> {
    pub config: &'c Server,
    pub rest: Rest,
    pub ops: Ops,
    pub callbacks: CallbackGuard,
    /// How long payment-service may take.
    pub payment_timeout: Duration,
}

/// The public port: REST for front ends, and liveness.
pub fn public_app(parts: Parts<'_>) -> Router {
    let Parts { config, ref rest, ref callbacks, .. } = parts;
    let (style, tokens) = (config.http.style, &config.grpc.internal_tokens);
    let mut routes = rest::public_routes();
    if config.http.internal_routes {
        routes = routes.merge(auth::protect(rest::internal_routes(), tokens, style)).merge(callback::protect(
            rest::callback_route(),
            callbacks,
            tokens,
            style,
        ));
    }
    let bounded = bound(routes.with_state(rest.clone()), &parts, config.http.timeout, style);
    complete(bounded.merge(ops::health(parts.ops)), style)
}

/// The internal port: gRPC, its health and reflection, internal REST, liveness and metrics.
///
/// # Errors
/// Descriptors that reflection can't read; only a defect.
pub fn internal_app(
    parts: Parts<'_>,
    health: tonic_health::pb::health_server::HealthServer<impl tonic_health::pb::health_server::Health>,
) -> anyhow::Result<Router> {
    // The style is the front end's; the gateway's port keeps the plain one.
    let style = Style::Plain;
    let Parts { config, ref rest, ref callbacks, .. } = parts;
    let (rest, api) = (Rest { style, ..rest.clone() }, Grpc(rest.api.clone()));
    let (tokens, limit) = (&config.grpc.internal_tokens, config.limits.body_bytes);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // So that clients can show the details of errors.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let internal = BillingInternalServiceServer::new(api.clone()).max_decoding_message_size(limit);
    let open = Routes::new(BillingServiceServer::new(api).max_decoding_message_size(limit))
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .into_axum_router()
        .reset_fallback();
    // The one rpc that proves by itself who calls; its path goes before the others'.
    let callback = Router::new().route_service(GRPC_CALLBACK_PATH, internal.clone());
    let guarded = Routes::new(internal).into_axum_router().reset_fallback();
    let routes = auth::protect(rest::internal_routes(), tokens, style)
        .merge(callback::protect(rest::callback_route(), callbacks, tokens, style))
        .with_state(rest)
        .merge(auth::protect(guarded, tokens, style))
        .merge(callback::protect(callback, callbacks, tokens, style))
        .merge(open);
    let bounded = bound(routes, &parts, config.grpc.timeout, style);
    Ok(complete(bounded.merge(ops::health(parts.ops.clone())).merge(ops::metrics(parts.ops)), style))
}

/// Limits bodies, requests at once, and the time of each. Health and metrics stay
/// outside: a busy server is not a dead one.
fn bound(routes: Router, parts: &Parts<'_>, timeout: Duration, style: Style) -> Router {
    let limits = &parts.config.limits;
    let requests = Arc::new(Semaphore::new(limits.requests));
    let bounds = Bounds { requests, timeout, payment_timeout: parts.payment_timeout, style };
    routes
        .layer(DefaultBodyLimit::max(limits.body_bytes))
        .layer(middleware::from_fn_with_state(bounds, bounds::enforce))
}

/// Answers for paths and methods that do not exist, and the span around every request.
fn complete(routes: Router, style: Style) -> Router {
    routes
        .fallback(async move |request: Request| not_found(style, &request))
        .method_not_allowed_fallback(async move || wrong_method(style))
        .layer(middleware::from_fn(span::identify))
}

fn not_found(style: Style, request: &Request) -> Response {
    if is_grpc(request) {
        return tonic::Status::unimplemented(format!("no rpc {}", request.uri().path())).into_http();
    }
    plain_error(style, StatusCode::NOT_FOUND, "NOT_FOUND", "no such path")
}

fn wrong_method(style: Style) -> Response {
    plain_error(style, StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", "the path exists, with another method")
}

/// Errors of HTTP itself, in the shape of the contract's errors but without its codes.
fn plain_error(style: Style, status: StatusCode, reason: &'static str, message: &str) -> Response {
    let body = ErrorBody { code: status.as_u16(), reason, message: message.to_owned(), metadata: HashMap::new() };
    rest::dress_error(style, status, body)
}

/// The gRPC health service, and the handle that tells it we are stopping.
pub fn grpc_health() -> (
    tonic_health::server::HealthReporter,
    tonic_health::pb::health_server::HealthServer<impl tonic_health::pb::health_server::Health>,
) {
    tonic_health::server::health_reporter()
}

/// Sets every name that gRPC health answers for: the server as a whole and each service.
pub async fn report_health(reporter: &tonic_health::server::HealthReporter, status: ServingStatus) {
    for name in ["", BillingServiceServer::<Grpc>::NAME, BillingInternalServiceServer::<Grpc>::NAME] {
        reporter.set_service_status(name, status).await;
    }
}
