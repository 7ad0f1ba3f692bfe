//! The proofs of callers and users, as security schemes.

use serde_json::{Map, Value, json};

use super::port::Port;
use crate::{
    config::{CallbackAuth, FrontEndAuth, Role},
    server::access::{GATEWAY_TOKEN, table},
    service::{
        errors::{
            Kind,
            kinds::{PERMISSION_DENIED, UNAUTHENTICATED},
        },
        routes::{CALLBACK_PATH, INTERNAL_PREFIX},
        signature,
    },
};

/// The access to one route.
#[derive(Debug, Default)]
pub struct Access {
    /// The alternatives of `security`; empty if the route needs no proof.
    pub security: Vec<Value>,
    /// The roles that may call it, one of which suffices.
    pub roles: Vec<&'static str>,
    pub refusals: Vec<Kind>,
}

impl Access {
    /// The access to the route of an rpc or an export.
    pub fn of_rpc(port: &Port, rpc: &str, path: &str) -> Self {
        // A page of another origin, or another name of the server, is refused everywhere.
        let mut access = match path.starts_with(INTERNAL_PREFIX) {
            true if path == CALLBACK_PATH => Self::of_callback(port),
            true => Self::of_callers(port, table::roles(rpc).unwrap_or_default()),
            false => Self::of_users(port),
        };
        access.refusals.push(PERMISSION_DENIED);
        access
    }

    /// The access of callers with one of these roles.
    pub fn of_callers(port: &Port, roles: &[Role]) -> Self {
        if !port.config.has_callers() {
            return Self::default();
        }
        let names = roles.iter().map(|role| role.name()).collect();
        let mut security = vec![json!({"caller_token": []})];
        if asks_certificates(port) {
            security.push(json!({"caller_certificate": []}));
        }
        Self { security, roles: names, refusals: vec![UNAUTHENTICATED] }
    }

    fn of_callback(port: &Port) -> Self {
        match port.callback_auth {
            CallbackAuth::None => Self::of_callers(port, table::roles("RechargeCallback").unwrap_or_default()),
            CallbackAuth::Confirm => Self::default(),
            CallbackAuth::Signed => Self {
                security: vec![json!({"callback_signature": []})],
                roles: Vec::new(),
                refusals: vec![UNAUTHENTICATED],
            },
        }
    }

    fn of_users(port: &Port) -> Self {
        let security = match port.config.http.auth.mode() {
            FrontEndAuth::None => return Self::default(),
            FrontEndAuth::Jwt => json!({"user_token": []}),
            FrontEndAuth::Gateway => json!({"gateway_token": [], "gateway_user": []}),
        };
        Self { security: vec![security], roles: Vec::new(), refusals: vec![UNAUTHENTICATED] }
    }
}

/// Whether the proof of a user names the account of a route.
pub fn names_account(port: &Port, path: &str) -> bool {
    !path.starts_with(INTERNAL_PREFIX) && port.config.http.auth.mode() != FrontEndAuth::None
}

fn asks_certificates(port: &Port) -> bool {
    port.config.tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some())
}

/// The schemes that the routes of a port may refer to.
pub fn schemes(port: &Port) -> Map<String, Value> {
    let mut schemes = Map::new();
    let mut add = |name: &str, scheme| schemes.insert(name.to_owned(), scheme);
    if port.config.has_callers() && (!port.is_public || port.config.http.internal_routes) {
        let text =
            "The token of a caller in server.grpc.auth.callers. x-roles of a route names the roles that may call it.";
        add("caller_token", json!({"type": "http", "scheme": "bearer", "description": text}));
        if asks_certificates(port) {
            add("caller_certificate", json!({"type": "mutualTLS", "description": "The certificate of a caller."}));
        }
    }
    if port.serves_internal_routes() && port.callback_auth == CallbackAuth::Signed {
        let text = "The signature of payment-service over the body.";
        let name = signature::HEADER;
        add("callback_signature", json!({"type": "apiKey", "in": "header", "name": name, "description": text}));
    }
    if !port.is_public {
        return schemes;
    }
    match port.config.http.auth.mode() {
        FrontEndAuth::None => {}
        FrontEndAuth::Jwt => {
            let text = "The token of a user. It names the account.";
            let scheme = json!({"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": text});
            add("user_token", scheme);
        }
        FrontEndAuth::Gateway => {
            let key =
                |name: &str, text: &str| json!({"type": "apiKey", "in": "header", "name": name, "description": text});
            add("gateway_token", key(GATEWAY_TOKEN.as_str(), "The token of the gateway."));
            let header = port.config.http.auth.gateway.identity_header.as_str();
            add("gateway_user", key(header, "The account, as the gateway knows it."));
        }
    }
    schemes
}
