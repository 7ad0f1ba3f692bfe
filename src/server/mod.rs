//! Transport: the two ports, and the middleware around the routes of the service layer.

mod arrival;
mod auth;
mod bounds;
mod callback;
mod content;
mod counted;
mod http_error;
mod listener;
mod ops;
mod overflow;
mod panics;
mod request;
mod span;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    middleware,
    response::Response,
};
use http::{StatusCode, Version};
use tokio::sync::Semaphore;
use tonic::{codec::CompressionEncoding::Gzip, server::NamedService, service::Routes};
use tonic_health::ServingStatus;

use self::{bounds::Bounds, http_error::http_error, request::is_grpc};
pub use self::{
    callback::CallbackGuard,
    listener::{BEYOND_LIMIT, Listener, ListenerLimits, METERING_WINDOW, Tls, TlsFiles, reachable, serve},
    ops::{Ops, metrics_alone},
};
use crate::{
    config::{Server, Style},
    metrics::Metrics,
    service::{
        grpc::Grpc,
        proto::{
            DESCRIPTORS, billing_internal_service_server::BillingInternalServiceServer,
            billing_service_server::BillingServiceServer,
        },
        rest::{self, Rest},
        routes::GRPC_CALLBACK_PATH,
    },
};

/// The parts of both ports.
#[derive(Clone)]
pub struct Parts<'c> {
    pub config: &'c Server,
    pub rest: Rest,
    pub ops: Ops,
    pub callbacks: CallbackGuard,
    /// Deadline of a call to payment-service.
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
    let routes = content::rest(routes, style, config.limits.body_bytes);
    let bounds = bounds(&parts, config.http.timeout, style);
    let bounded = bound(routes.with_state(rest.clone()), config.limits.body_bytes, bounds);
    complete(bounded.merge(ops::health(parts.ops.clone())), &parts.ops.metrics, style)
}

/// The internal port: gRPC, its health and reflection, internal REST, liveness and metrics.
///
/// # Errors
/// Reflection can't read the descriptors, which is a defect.
pub fn internal_app(
    parts: Parts<'_>,
    health: tonic_health::pb::health_server::HealthServer<impl tonic_health::pb::health_server::Health>,
) -> anyhow::Result<Router> {
    // The configured style is for front ends. The internal port has the plain style.
    let style = Style::Plain;
    let Parts { config, ref rest, ref callbacks, .. } = parts;
    let (rest, api) = (Rest { style, ..rest.clone() }, Grpc(rest.api.clone()));
    let (tokens, limit) = (&config.grpc.internal_tokens, config.limits.body_bytes);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // Reflection includes the type of error details, so that clients can decode them.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let internal = BillingInternalServiceServer::new(api.clone())
        .max_decoding_message_size(limit)
        .accept_compressed(Gzip)
        .send_compressed(Gzip);
    let public =
        BillingServiceServer::new(api).max_decoding_message_size(limit).accept_compressed(Gzip).send_compressed(Gzip);
    let open = Routes::new(public)
        .add_service(health.accept_compressed(Gzip).send_compressed(Gzip))
        .add_service(reflection().build_v1()?.accept_compressed(Gzip).send_compressed(Gzip))
        .add_service(reflection().build_v1alpha()?.accept_compressed(Gzip).send_compressed(Gzip))
        .into_axum_router()
        .reset_fallback();
    // The callback proves its sender itself, so its path comes before the token check.
    let callback = Router::new().route_service(GRPC_CALLBACK_PATH, internal.clone());
    let guarded = Routes::new(internal).into_axum_router().reset_fallback();
    let json = auth::protect(rest::internal_routes(), tokens, style)
        .merge(callback::protect(rest::callback_route(), callbacks, tokens, style))
        .with_state(rest);
    let calls =
        auth::protect(guarded, tokens, style).merge(callback::protect(callback, callbacks, tokens, style)).merge(open);
    let json = content::rest(json, style, limit);
    let bounds = bounds(&parts, config.grpc.timeout, style);
    let bounded = bound(calls, limit, Bounds { is_grpc: true, ..bounds.clone() }).merge(bound(json, limit, bounds));
    let ops = ops::health(parts.ops.clone()).merge(ops::metrics(parts.ops.clone()));
    Ok(complete(bounded.merge(ops), &parts.ops.metrics, style))
}

/// The bounds of the routes of REST. Routes with clones share the most requests at once.
fn bounds(parts: &Parts<'_>, timeout: Duration, style: Style) -> Bounds {
    let requests = Arc::new(Semaphore::new(parts.config.limits.requests));
    Bounds { requests, timeout, payment_timeout: parts.payment_timeout, style, is_grpc: false }
}

/// Limits the body size, the requests at once, and the time of each. Health and metrics have no such
/// limits, so that an overloaded server does not look dead.
fn bound(routes: Router, body_bytes: usize, bounds: Bounds) -> Router {
    let style = bounds.style;
    routes
        .layer(DefaultBodyLimit::max(body_bytes))
        .layer(middleware::from_fn_with_state(bounds, bounds::enforce))
        .layer(middleware::from_fn_with_state(style, overflow::refuse))
}

/// Adds the answers for paths and methods that do not exist, and around every request the span, the count,
/// and the answer in place of a panic.
pub fn complete(routes: Router, metrics: &Arc<Metrics>, style: Style) -> Router {
    routes
        .fallback(async move |request: Request| not_found(style, &request))
        .method_not_allowed_fallback(async move || wrong_method(style))
        .layer(middleware::from_fn_with_state((metrics.clone(), style), panics::contain))
        .layer(middleware::from_fn_with_state(metrics.clone(), span::identify))
}

fn not_found(style: Style, request: &Request) -> Response {
    if is_grpc(request) && request.version() == Version::HTTP_2 {
        return tonic::Status::unimplemented(format!("no rpc {}", request.uri().path())).into_http();
    }
    http_error(style, StatusCode::NOT_FOUND, "NOT_FOUND", "no such path")
}

fn wrong_method(style: Style) -> Response {
    http_error(style, StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", "the path exists, with another method")
}

/// The gRPC health service, and the handle that sets its status.
pub fn grpc_health() -> (
    tonic_health::server::HealthReporter,
    tonic_health::pb::health_server::HealthServer<impl tonic_health::pb::health_server::Health>,
) {
    tonic_health::server::health_reporter()
}

/// Sets the status of every name in gRPC health: the server as a whole and each service.
pub async fn report_health(reporter: &tonic_health::server::HealthReporter, status: ServingStatus) {
    for name in ["", BillingServiceServer::<Grpc>::NAME, BillingInternalServiceServer::<Grpc>::NAME] {
        reporter.set_service_status(name, status).await;
    }
}
