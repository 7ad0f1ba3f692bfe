//! The layer that finds the account of a front end's request.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::Response,
};
use http::{Extensions, HeaderMap, HeaderName, Method};

use super::{
    callers::{Callers, bearer},
    jwks::KeySource,
    jwt::{Claims, Verifier},
    refusals::{Reason, Refusals, Refused, UNKNOWN, USER},
    table,
};
use crate::{
    biz::{
        limits::shares::Shares,
        values::{error::Error, ids::UserId},
    },
    config::{FrontEndAuth, Server, Style},
    server::{listener::Connection, refusal::Refusal},
    service::{
        origin::{Account, Forwarding},
        rest::Denied,
    },
};

/// The header with the token of a gateway that names the user itself.
pub const GATEWAY_TOKEN: HeaderName = HeaderName::from_static("x-gateway-token");

/// The check of the public routes.
#[derive(Clone)]
pub struct FrontEnd {
    proof: Proof,
    style: Style,
    forwarding: Forwarding,
    refusals: Arc<Refusals>,
    /// The open requests of each user. Further ones get OVERLOADED.
    open: Arc<Shares<String>>,
}

/// The proof of a user.
#[derive(Clone)]
enum Proof {
    Jwt(Arc<Verifier>),
    Gateway { callers: Arc<Callers>, identity: HeaderName },
    None,
}

impl FrontEnd {
    /// # Errors
    /// The secret of the tokens is not usable.
    pub fn new(
        server: &Server,
        keys: Option<Arc<KeySource>>,
        callers: Arc<Callers>,
        forwarding: Forwarding,
        refusals: Arc<Refusals>,
    ) -> anyhow::Result<Self> {
        let auth = &server.http.auth;
        let proof = match (auth.mode(), &auth.jwt) {
            (FrontEndAuth::Jwt, Some(jwt)) => Proof::Jwt(Arc::new(Verifier::new(jwt, keys)?)),
            (FrontEndAuth::Jwt, None) => anyhow::bail!("config key server.http.auth.jwt: mode jwt needs it"),
            (FrontEndAuth::Gateway, _) => Proof::Gateway { callers, identity: auth.gateway.identity_header.clone() },
            (FrontEndAuth::None, _) => Proof::None,
        };
        Ok(Self {
            proof,
            style: server.http.style,
            forwarding,
            refusals,
            open: Shares::new(server.limits.requests_per_user),
        })
    }

    /// Adds the check to `routes`. It runs before the body is read.
    pub fn protect<S: Clone + Send + Sync + 'static>(&self, routes: Router<S>) -> Router<S> {
        if matches!(self.proof, Proof::None) {
            return routes;
        }
        routes.route_layer(middleware::from_fn_with_state(self.clone(), check))
    }

    async fn account(&self, headers: &HeaderMap, extensions: &Extensions) -> Result<Claims, Refused> {
        match &self.proof {
            Proof::Jwt(verifier) => {
                let Some(token) = bearer(headers) else {
                    let why = "send header authorization: Bearer <token>";
                    return Err(Refused::unauthenticated(Reason::Missing, why));
                };
                verifier.verify(token).await
            }
            Proof::Gateway { callers, identity } => named_by_gateway(callers, identity, headers, extensions),
            Proof::None => Err(Refused::unauthenticated(Reason::Missing, "no proof is configured")),
        }
    }
}

fn named_by_gateway(
    callers: &Callers,
    identity: &HeaderName,
    headers: &HeaderMap,
    extensions: &Extensions,
) -> Result<Claims, Refused> {
    callers.admit_token(GATEWAY_TOKEN, headers, extensions, table::IDENTITY)?;
    let mut names = headers.get_all(identity).iter();
    let (name, other) = (names.next(), names.next());
    let user = name.filter(|_| other.is_none()).and_then(|name| name.to_str().ok()).unwrap_or_default();
    if UserId::parse(identity.as_str(), user).is_err() {
        let why = format!("the header {identity} must name the account, once");
        return Err(Refused::unauthenticated(Reason::Identity, why));
    }
    Ok(Claims { user: user.to_owned(), is_read_only: false, reads_any: false })
}

async fn check(State(front_end): State<FrontEnd>, mut request: Request, next: Next) -> Response {
    let address = front_end.forwarding.client_ip(request.headers(), request.extensions());
    let claims = match front_end.account(request.headers(), request.extensions()).await {
        Ok(claims) => claims,
        Err(refused) => {
            front_end.refusals.note(UNKNOWN, refused.reason, address);
            return refused.answer(&request, front_end.style);
        }
    };
    if claims.is_read_only && !matches!(*request.method(), Method::GET | Method::HEAD) {
        front_end.refusals.note(USER, Reason::Account, address);
        let refused = Refused::denied(Reason::Account, "the scope of the token allows reads only");
        return refused.answer(&request, front_end.style);
    }
    if let Some(connection) = request.extensions().get::<Connection>() {
        connection.prove();
    }
    let is_named_by_gateway = matches!(front_end.proof, Proof::Gateway { .. });
    let Some(_share) = front_end.open.take(&claims.user) else {
        let error = Error::Overloaded("too many requests of this user are open; retry later".into());
        // Other users may share the connection: that of a gateway, or of a proxy.
        return Refusal::of(&request, front_end.style).answer(&error);
    };
    let Claims { user, is_read_only, reads_any } = claims;
    request.extensions_mut().insert(Account { user, reads_any, is_read_only, is_named_by_gateway });
    let response = next.run(request).await;
    if response.extensions().get::<Denied>().is_some() {
        front_end.refusals.note(USER, Reason::Account, address);
    }
    response
}
