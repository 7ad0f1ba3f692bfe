//! Transport: the two ports, and the middleware around the routes of the service layer.

pub mod access;
mod arrival;
mod body_memory;
mod bounds;
mod budget;
mod callback;
mod content;
mod counted;
mod docs;
mod html;
mod http_error;
mod inflate;
mod listener;
pub mod openapi;
mod ops;
mod overflow;
mod panics;
mod permits;
mod refusal;
mod request;
mod request_log;
mod rpcs;
mod sight;
mod span;
mod traces;
mod watches;

use std::{sync::Arc, time::Duration};

use axum::{Router, extract::Request, response::Response};
use http::{StatusCode, Version};
use tonic::{codec::CompressionEncoding::Gzip, server::NamedService, service::Routes};
use tonic_health::ServingStatus;
use tower::{Layer, layer::layer_fn};

use self::{
    access::{Callers, CrossSite, FrontEnd, Gate},
    body_memory::BodyMemory,
    bounds::{Bounded, Bounds, MAX_OPEN_MESSAGE},
    http_error::http_error,
    permits::Permits,
    request::is_grpc,
    rpcs::{InternalApp, Rpcs},
    span::Identify,
    watches::Watches,
};
pub use self::{
    callback::CallbackGuard,
    html::Escaped,
    listener::{BEYOND_LIMIT, Connection, Listener, ListenerLimits, METERING_WINDOW, Tls, TlsFiles, reachable, serve},
    ops::{Ops, metrics_alone},
    sight::Sight,
};
use crate::{
    config::{Role, Server, Style},
    console::{self, Console},
    service::{
        envoy::rate_limit_service_server::RateLimitServiceServer,
        grpc::Grpc,
        origin::{ForwardedNames, Forwarding},
        proto::{
            DESCRIPTORS, billing_internal_service_server::BillingInternalServiceServer,
            billing_service_server::BillingServiceServer,
        },
        request::language,
        rest::{self, MAX_RECHARGE_BODY, Rest},
        routes::GRPC_CALLBACK_PATH,
    },
};

/// Largest message to the rate limit service, in bytes. Its lists lie within each other, so that the codec does not
/// count their items.
const MAX_RATE_LIMIT_MESSAGE: usize = 16 * 1024;

/// The parts of both ports.
#[derive(Clone)]
pub struct Parts<'c> {
    pub config: &'c Server,
    pub rest: Rest,
    pub ops: Ops,
    pub sight: Sight,
    pub callbacks: CallbackGuard,
    pub access: Access,
    /// The pages of users and those of operators; `None` without `console.enabled`.
    pub console: Option<Consoles>,
    /// Deadline of a call to payment-service.
    pub payment_timeout: Duration,
    /// The headers that go on to payment-service.
    pub forwarded: ForwardedNames,
}

/// The consoles of both ports.
#[derive(Clone)]
pub struct Consoles {
    pub public: Console,
    pub internal: Console,
}

/// The checks of the callers of both ports.
#[derive(Clone)]
pub struct Access {
    pub callers: Arc<Callers>,
    pub front_end: FrontEnd,
    pub cross_site: CrossSite,
    pub forwarding: Forwarding,
}

/// The public port: REST for front ends, its document, and liveness.
pub fn public_app(parts: Parts<'_>) -> Router {
    let Parts { config, ref rest, ref callbacks, ref access, .. } = parts;
    let (style, limit) = (config.http.style, config.limits.body_bytes);
    let bounds = bounds(&parts, config.http.timeout, style, config.limits.public_body_memory());
    let bounded =
        |routes: Router<Rest>| bound(content::rest(routes, style, limit).with_state(rest.clone()), bounds.clone());
    let public = access.front_end.protect(bounded(rest::public_routes(limit)));
    let mut routes = access.cross_site.protect(public);
    if config.http.internal_routes {
        let internal = access.internal(bounded(rest::internal_routes(limit)), style);
        let callback = callback::protect(rest::callback_route(limit), callbacks, style);
        let callback = content::rest(callback, style, MAX_RECHARGE_BODY.min(limit)).with_state(rest.clone());
        let callback = access.callback(bound(callback, bounds.of_open_routes()), callbacks, style);
        routes = routes.merge(access.cross_site.protect(internal.merge(callback)));
    }
    if let Some(consoles) = &parts.console {
        routes = routes.merge(pages_of_users(&consoles.public, access, &bounds));
    }
    let documents = bound(docs::routes(port(&parts, true)), bounds.of_open_routes());
    let app = complete(routes.merge(documents).merge(ops::health(parts.ops.clone())), parts.sight.clone(), style);
    match access::cors(&config.http) {
        // A preflight request has a method that no route has, so this layer comes first.
        Some(cors) => app.layer(cors),
        None => app,
    }
}

/// The pages of users. A page of an account passes the same checks as the routes of REST.
fn pages_of_users(console: &Console, access: &Access, bounds: &Bounds) -> Router {
    let of_account = console::account_routes().merge(console::top_up_routes()).with_state(console.clone());
    pages(access.front_end.protect(bound(of_account, bounds.clone())), console, &access.cross_site, bounds)
}

/// The pages of operators, for callers whose role may read any account, and the actions, for those that may change it.
fn pages_of_operators(console: &Console, access: &Access, bounds: &Bounds) -> Router {
    let routes = console::account_routes().merge(console::operator_routes()).with_state(console.clone());
    let read = access.only(bound(routes, bounds.clone()), access::table::CONSOLE, Style::Plain);
    let actions = console::admin_routes().with_state(console.clone());
    let act = access.only(bound(actions, bounds.clone()), access::table::CONSOLE_ACTIONS, Style::Plain);
    pages(read.merge(act), console, &access.cross_site.internal(), bounds)
}

/// Adds the forms and files that need no proof. The session lies around the checks: it gives them the token of a
/// browser, and makes a page of their refusals.
fn pages(checked: Router, console: &Console, cross_site: &CrossSite, bounds: &Bounds) -> Router {
    let (forms, files) = console::open_routes();
    let forms = bound(forms.with_state(console.clone()), bounds.of_open_routes());
    let pages = cross_site.protect(checked.merge(forms));
    console::within_session(pages, console.clone()).merge(bound(files, bounds.of_open_routes()))
}

/// The port that a document describes.
fn port(parts: &Parts<'_>, is_public: bool) -> openapi::Port {
    openapi::Port { config: Arc::new(parts.config.clone()), callback_auth: parts.callbacks.auth, is_public }
}

/// The internal port: gRPC, its health and reflection, internal REST, its document, liveness and metrics.
///
/// # Errors
/// Reflection can't read the descriptors, which is a defect.
pub fn internal_app(
    parts: Parts<'_>,
    health: tonic_health::pb::health_server::HealthServer<impl tonic_health::pb::health_server::Health>,
) -> anyhow::Result<InternalApp> {
    // The configured style is for front ends. The internal port has the plain style.
    let style = Style::Plain;
    let Parts { config, ref rest, ref callbacks, ref access, .. } = parts;
    let (rest, api) = (Rest { style, ..rest.clone() }, Grpc(rest.api.clone()));
    let limit = config.limits.body_bytes;
    let bounds = bounds(&parts, config.grpc.timeout, style, config.limits.internal_body_memory());
    let json =
        |routes: Router<Rest>| bound(content::rest(routes, style, limit).with_state(rest.clone()), bounds.clone());
    let internal = BillingInternalServiceServer::new(api.clone())
        .max_decoding_message_size(limit)
        .accept_compressed(Gzip)
        .send_compressed(Gzip);
    let public = BillingServiceServer::new(api.clone())
        .max_decoding_message_size(limit)
        .accept_compressed(Gzip)
        .send_compressed(Gzip);
    let rate_limit = RateLimitServiceServer::new(api)
        .max_decoding_message_size(MAX_RATE_LIMIT_MESSAGE)
        .accept_compressed(Gzip)
        .send_compressed(Gzip);
    let health = health.max_decoding_message_size(MAX_OPEN_MESSAGE).accept_compressed(Gzip).send_compressed(Gzip);
    let health = Routes::new(health).into_axum_router().reset_fallback();
    // The callback proves its sender itself, so its path comes before the check of the others.
    let callback = internal.clone().max_decoding_message_size(MAX_OPEN_MESSAGE);
    let callback = callback::protect(Router::new().route_service(GRPC_CALLBACK_PATH, callback), callbacks, style);
    let rpcs = Bounded {
        routes: Rpcs { internal, public, rate_limit },
        bounds: Bounds { is_grpc: true, ..bounds.clone() }.into(),
    };
    let identify = Identify { sight: parts.sight.clone(), style };
    let rpcs = identify.layer(access.gate(style).layer(rpcs));
    // Anyone may send a callback, so callbacks of both protocols have bounds of their own.
    let of_callbacks = bounds.of_open_routes();
    let callback = bound(callback, Bounds { is_grpc: true, ..of_callbacks.clone() });
    let over_grpc = access.callback(callback, callbacks, style);
    let callback = callback::protect(rest::callback_route(limit), callbacks, style);
    let callback = content::rest(callback, style, MAX_RECHARGE_BODY.min(limit));
    let callback = bound(callback.with_state(rest.clone()), of_callbacks);
    let over_rest =
        access.internal(json(rest::internal_routes(limit)), style).merge(access.callback(callback, callbacks, style));
    // A proxy may pass on the headers of a web page. The routes move no money, and have no body. The public port lacks
    // them: its answer to a preflight request would pass for an allowed call.
    let authorize = access.internal(bound(rest::authorize_routes().with_state(rest.clone()), bounds.clone()), style);
    let watches = Watches::new(&config.limits, access.forwarding.clone());
    let open = |routes: Router| bound(watches.protect(routes), Bounds { is_grpc: true, ..bounds.of_open_routes() });
    let (mut reflection, mut metrics) = (open(reflection()?), ops::metrics(parts.ops.clone()));
    let mut documents = bound(docs::routes(port(&parts, false)), bounds.of_open_routes());
    if config.grpc.auth.protect_operations {
        reflection = access.only(reflection, access::table::REFLECTION, style);
        documents = access.only(documents, access::table::REFLECTION, style);
        metrics = access.only(metrics, access::table::METRICS, style);
    }
    let console = parts.console.as_ref().map(|consoles| pages_of_operators(&consoles.internal, access, &bounds));
    let console = console.unwrap_or_default();
    let routes = over_grpc
        .merge(access.cross_site.internal().protect(over_rest))
        .merge(authorize)
        .merge(open(health))
        .merge(reflection)
        .merge(documents)
        .merge(console)
        .merge(metrics)
        .merge(ops::health(parts.ops.clone()));
    Ok(InternalApp { rpcs, others: complete(routes, parts.sight.clone(), style) })
}

fn reflection() -> anyhow::Result<Router> {
    let descriptors = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // Reflection includes the type of error details, so that clients can decode them.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let v1 = descriptors().build_v1()?.max_decoding_message_size(MAX_OPEN_MESSAGE);
    let v1alpha = descriptors().build_v1alpha()?.max_decoding_message_size(MAX_OPEN_MESSAGE);
    let routes = Routes::new(v1.accept_compressed(Gzip).send_compressed(Gzip))
        .add_service(v1alpha.accept_compressed(Gzip).send_compressed(Gzip));
    Ok(routes.into_axum_router().reset_fallback())
}

impl Access {
    /// Asks for the role that the table gives each rpc.
    fn internal(&self, routes: Router, style: Style) -> Router {
        access::protect(routes, self.gate(style))
    }

    fn gate(&self, style: Style) -> Gate {
        Gate { callers: self.callers.clone(), style, roles: None }
    }

    /// As [`Self::internal`], unless callbacks prove themselves.
    fn callback(&self, routes: Router, callbacks: &CallbackGuard, style: Style) -> Router {
        if callbacks.proves_itself() { routes } else { self.internal(routes, style) }
    }

    fn only(&self, routes: Router, roles: &'static [Role], style: Style) -> Router {
        access::protect(routes, Gate { callers: self.callers.clone(), style, roles: Some(roles) })
    }
}

/// The bounds of the routes of REST. Routes with clones share the most requests at once.
fn bounds(parts: &Parts<'_>, timeout: Duration, style: Style, body_memory: usize) -> Bounds {
    let Parts { config, access, payment_timeout, .. } = parts;
    let limits = &config.limits;
    Bounds {
        permits: Permits::new(limits.requests)
            .shared_by_callers(config.share_of_caller(limits.requests_per_caller, limits.requests)),
        open_permits: (limits.open_requests, limits.open_requests_per_address),
        memory: BodyMemory::new(body_memory),
        timeout,
        payment_timeout: *payment_timeout,
        style,
        forwarding: access.forwarding.clone(),
        forwarded: parts.forwarded.clone(),
        is_grpc: false,
        message_bytes: limits.body_bytes,
    }
}

/// Limits the requests at once, and the time of each. Health and metrics have no such limits, so that an
/// overloaded server does not look dead.
fn bound(routes: Router, bounds: Bounds) -> Router {
    let bounds = Arc::new(bounds);
    routes.layer(layer_fn(move |routes| Bounded { routes, bounds: bounds.clone() }))
}

/// Adds the answers for paths and methods that do not exist, and around every request the span, the count, the log
/// line, and the answer in place of a panic.
pub fn complete(routes: Router, sight: Sight, style: Style) -> Router {
    routes
        .fallback(async move |request: Request| not_found(style, &request))
        .method_not_allowed_fallback(async move |request: Request| wrong_method(style, &request))
        .layer(Identify { sight, style })
}

fn not_found(style: Style, request: &Request) -> Response {
    if is_grpc(request) && request.version() == Version::HTTP_2 {
        return tonic::Status::unimplemented(format!("no rpc {}", request.uri().path())).into_http();
    }
    http_error((style, language(request.headers())), StatusCode::NOT_FOUND, "NOT_FOUND", "no such path")
}

fn wrong_method(style: Style, request: &Request) -> Response {
    let message = "the path exists, with another method";
    let asked = (style, language(request.headers()));
    http_error(asked, StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", message)
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
    let names = [
        "",
        BillingServiceServer::<Grpc>::NAME,
        BillingInternalServiceServer::<Grpc>::NAME,
        RateLimitServiceServer::<Grpc>::NAME,
    ];
    for name in names {
        reporter.set_service_status(name, status).await;
    }
}
