//! Pages of other origins. Some may call the API: those of `server.http.cors.origins`. A page of an
//! attacker may not change anything with the help of a user's browser, nor reach the port under a
//! name of its own.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::Response,
};
use http::{
    HeaderName, HeaderValue, Method,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN, RETRY_AFTER},
};
use tower_http::cors::CorsLayer;

use super::refusals::{Reason, Refusals, Refused, UNKNOWN};
use crate::{
    config::{HttpPort, Style},
    service::{
        idempotency::IDEMPOTENCY_KEY,
        origin::Forwarding,
        request::{REQUEST_ID, TRACE_ID},
    },
};

/// The time for which a browser remembers the answer to a preflight request.
const PREFLIGHT_AGE: Duration = Duration::from_secs(600);

/// The check of the routes of REST.
#[derive(Clone)]
pub struct CrossSite {
    /// An empty list allows every name.
    hosts: Arc<[String]>,
    origins: Arc<[String]>,
    style: Style,
    forwarding: Forwarding,
    refusals: Arc<Refusals>,
}

impl CrossSite {
    pub fn new(config: &HttpPort, forwarding: Forwarding, refusals: Arc<Refusals>) -> Self {
        let (hosts, origins) = (config.hosts.clone().into(), config.cors.origins.clone().into());
        Self { hosts, origins, style: config.style, forwarding, refusals }
    }

    /// The same check for the internal port, which has other names.
    pub fn internal(&self) -> Self {
        Self { hosts: Arc::default(), style: Style::Plain, ..self.clone() }
    }

    /// Adds the check to `routes`.
    pub fn protect<S: Clone + Send + Sync + 'static>(&self, routes: Router<S>) -> Router<S> {
        routes.route_layer(middleware::from_fn_with_state(self.clone(), check))
    }

    fn refuse(&self, request: &Request) -> Result<(), Refused> {
        let host = host(request);
        if !self.hosts.is_empty() && !self.hosts.iter().any(|known| known.eq_ignore_ascii_case(without_port(host))) {
            let why = "the Host of the request is not one of server.http.hosts";
            return Err(Refused::denied(Reason::Host, why));
        }
        let Some(origin) = request.headers().get(ORIGIN) else { return Ok(()) };
        let changes = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        if changes && !self.is_allowed(origin, host) {
            let why = "a page of this origin may not change anything; server.http.cors.origins lists those that may";
            return Err(Refused::denied(Reason::Origin, why));
        }
        Ok(())
    }

    fn is_allowed(&self, origin: &HeaderValue, host: &str) -> bool {
        let Ok(origin) = origin.to_str() else { return false };
        let own = origin.split_once("://").map(|(_, host)| host);
        own.is_some_and(|own| !own.is_empty() && own.eq_ignore_ascii_case(host))
            || self.origins.iter().any(|known| known == origin)
    }
}

async fn check(State(cross_site): State<CrossSite>, request: Request, next: Next) -> Response {
    match cross_site.refuse(&request) {
        Ok(()) => next.run(request).await,
        Err(refused) => {
            let address = cross_site.forwarding.client_ip(request.headers(), request.extensions());
            cross_site.refusals.note(UNKNOWN, refused.reason, address);
            refused.answer(&request, cross_site.style)
        }
    }
}

/// The name, and perhaps the port, by which the client reached the server.
fn host(request: &Request) -> &str {
    let header = || request.headers().get(HOST).and_then(|value| value.to_str().ok());
    request.uri().authority().map(|authority| authority.as_str()).or_else(header).unwrap_or_default()
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        // The colons of an IPv6 address stand within brackets.
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Lets the pages of the configured origins read replies and send requests; `None` without origins.
/// Cookies never count.
pub fn cors(config: &HttpPort) -> Option<CorsLayer> {
    if config.cors.origins.is_empty() {
        return None;
    }
    let origins: Vec<HeaderValue> = config.cors.origins.iter().filter_map(|origin| origin.parse().ok()).collect();
    let trace = ["traceparent", "tracestate"].map(HeaderName::from_static);
    let headers = [AUTHORIZATION, CONTENT_TYPE, IDEMPOTENCY_KEY, REQUEST_ID, TRACE_ID].into_iter().chain(trace);
    Some(
        CorsLayer::new()
            .allow_origin(origins)
            .allow_methods([Method::GET, Method::POST])
            .allow_headers(headers.collect::<Vec<_>>())
            .expose_headers([REQUEST_ID, RETRY_AFTER])
            .max_age(PREFLIGHT_AGE),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_no_part_of_the_name() {
        for (host, name) in
            [("a.example", "a.example"), ("a.example:8107", "a.example"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]")]
        {
            assert_eq!(without_port(host), name);
        }
    }
}
