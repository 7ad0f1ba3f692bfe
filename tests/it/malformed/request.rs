//! Requests of REST: a valid one of some route, with damage to its method, path, headers or body.

use std::sync::LazyLock;

use billing_service::service::{proto::DESCRIPTORS, routes::CALLBACK_PATH, signature};
use chrono::Utc;
use prost_reflect::{DescriptorPool, MessageDescriptor};

use super::{
    content::{json, path, query},
    damage::{damage, happens, noise, one_of},
    server::{SECRET, Target, gzip},
};
use crate::harness::{caller::Dice, contract::rpcs};

/// An rpc with a route of REST.
struct Route {
    method: String,
    path: String,
    message: MessageDescriptor,
}

/// All routes of the contract, and the exports of one user, which are no rpcs.
static ROUTES: LazyLock<Vec<Route>> = LazyLock::new(|| {
    let route = |method: String, path: String, rpc: &str| Route { method, path, message: message_of(rpc) };
    let rpcs = rpcs().into_iter().flat_map(|rpc| rpc.routes.into_iter().map(move |found| (rpc.name.clone(), found)));
    let mut routes: Vec<Route> = rpcs.map(|(rpc, (method, path))| route(method.to_string(), path, &rpc)).collect();
    routes.push(route("GET".into(), "/api/v1/billing/records.csv".into(), "ListRecords"));
    routes.push(route("GET".into(), "/api/v1/billing/statement.csv".into(), "GetStatement"));
    assert!(routes.len() > 25);
    routes
});

fn message_of(rpc: &str) -> MessageDescriptor {
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let mut methods = pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
    methods.find(|method| method.name() == rpc).unwrap().input()
}

pub struct Request {
    /// Whether it goes to the port of front ends.
    pub is_public: bool,
    pub method: String,
    /// Path and query.
    pub path: String,
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}

impl Request {
    /// For the log of a fault.
    pub fn shown(&self) -> String {
        let headers: Vec<String> =
            self.headers.iter().map(|(name, value)| format!("{name}: {}", value.escape_ascii())).collect();
        let Self { method, path, body, .. } = self;
        format!("{method} {path}\n  {}\n  {}", headers.join("\n  "), body.escape_ascii())
    }

    fn set(&mut self, name: &str, value: impl Into<Vec<u8>>) {
        self.headers.retain(|(other, _)| other != name);
        self.headers.push((name.to_owned(), value.into()));
    }

    /// A request of a random route, most often with damage.
    pub fn random(dice: &mut Dice, target: &Target) -> Self {
        let route = &ROUTES[dice.below(ROUTES.len())];
        let is_public = route.path.starts_with("/api/");
        let mut path = path(dice, &route.path);
        let body = match route.method.as_str() {
            "POST" => json(dice, &route.message, 0).into_bytes(),
            _ => {
                path = format!("{path}?{}", query(dice, &route.message));
                Vec::new()
            }
        };
        let token = if is_public { target.user_token(dice) } else { target.caller_token.clone() };
        let mut request = Self { is_public, method: route.method.clone(), path, headers: Vec::new(), body };
        request.set("authorization", format!("Bearer {token}"));
        request.set("content-type", "application/json");
        if route.path == CALLBACK_PATH {
            request.set(signature::HEADER, signature::sign(SECRET, Utc::now(), &request.body));
        }
        if happens(dice, 40) && !request.body.is_empty() {
            damage(dice, &mut request.body);
        }
        if happens(dice, 10) {
            request.body = gzip(&request.body);
            request.set("content-encoding", "gzip");
            if happens(dice, 50) {
                damage(dice, &mut request.body);
            }
        }
        if happens(dice, 30) {
            request.damage_head(dice);
        }
        request
    }

    fn damage_head(&mut self, dice: &mut Dice) {
        match dice.below(10) {
            0 => self.method = one_of(dice, &["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "BREW"]).to_owned(),
            1 => {
                self.path = one_of(
                    dice,
                    &[
                        "/",
                        "/billing.v1.BillingInternalService/DeductQuota",
                        "//",
                        "/%ff",
                        "/api/v1/billing/%2e%2e",
                        "/metrics/",
                        "/a?b",
                    ],
                )
                .to_owned()
            }
            2 => {
                let mut path = std::mem::take(&mut self.path).into_bytes();
                damage(dice, &mut path);
                // Letters that no request line can have would only test the parser of the head.
                self.path = path.into_iter().filter(u8::is_ascii_graphic).map(char::from).collect();
                if !self.path.starts_with('/') {
                    self.path.insert(0, '/');
                }
            }
            3 => self.damage_token(dice),
            4 => {
                let kinds = ["", "text/plain", "application/grpc", "application/json; charset=\u{ff}", "json", ";;"];
                self.set("content-type", one_of(dice, &kinds));
            }
            5 => self.set("content-encoding", one_of(dice, &["br", "gzip, gzip", "gzip", "identity", "\u{ff}"])),
            6 => {
                let name = one_of(
                    dice,
                    &[
                        "idempotency-key",
                        "x-trace-id",
                        "x-request-id",
                        "traceparent",
                        "x-forwarded-for",
                        "origin",
                        "x-billing-signature",
                        "x-user-id",
                        "x-gateway-token",
                        "accept-encoding",
                        "range",
                        "expect",
                    ],
                );
                let mut value = noise(dice, 60);
                value.retain(|byte| *byte >= b' ' && *byte != 127);
                self.set(name, value);
            }
            7 => {
                for number in 0..dice.below(150) {
                    self.set(&format!("x-{number}"), "x".repeat(dice.below(100)));
                }
            }
            8 => self.set("x-long", "x".repeat(dice.below(40_000))),
            _ => self.body = vec![b' '; dice.below(100_000)],
        }
    }

    fn damage_token(&mut self, dice: &mut Dice) {
        let Some((_, token)) = self.headers.iter_mut().find(|(name, _)| name == "authorization") else { return };
        match dice.below(4) {
            0 => {
                *token =
                    one_of(dice, &["", "Bearer", "Bearer ", "Basic YTpi", "Bearer a.b.c", "Bearer e30.e30."]).into()
            }
            1 => token.extend(vec![b'x'; dice.below(10_000)]),
            _ => {
                damage(dice, token);
                token.retain(|byte| *byte >= b' ' && *byte != 127);
            }
        }
    }
}
