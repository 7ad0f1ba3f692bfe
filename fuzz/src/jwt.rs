//! Tokens of users, from the header of a request to the account. A token is accepted only if its signature is
//! that of its content, and its account is the claim `sub`.

use std::{
    path::Path,
    sync::{Arc, LazyLock, Mutex},
};

use axum::{Router, body::Body, routing::get};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use billing_service::{
    config::Config,
    metrics::Metrics,
    server::access::{Callers, FrontEnd, KeySource, Refusals},
    service::origin::{Account, Forwarding},
};
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderValue, Request, header::AUTHORIZATION};
use serde_json::Value;
use sha2::Sha256;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tower::ServiceExt;

/// The secret of HS256. The fuzzer does not know it, because only complete tokens are in the corpus.
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// The input is a token. Or it begins with a brace; then it is the header, a line break, and the claims of a token
/// that is signed here.
pub fn run(data: &[u8]) {
    let token = if data.starts_with(b"{") { signed(data) } else { data.to_vec() };
    let Some(user) = accepted(&token) else { return };
    let text = String::from_utf8(token).expect("an accepted token is ASCII");
    let (content, signature) = text.rsplit_once('.').expect("an accepted token has a signature");
    assert_eq!(signature, BASE64.encode(hmac(content)), "{text} is forged");
    let (header, claims) = content.split_once('.').expect("an accepted token has claims");
    let (header, claims) = (json(header), json(claims));
    assert_eq!(header["alg"], "HS256", "{text}");
    let sub = match &claims["sub"] {
        Value::Number(number) => number.to_string(),
        other => other.as_str().expect("an account").to_owned(),
    };
    assert_eq!(user, sub, "{text}");
}

fn signed(parts: &[u8]) -> Vec<u8> {
    let at = parts.iter().position(|byte| *byte == b'\n').unwrap_or(parts.len());
    let (header, claims) = parts.split_at(at);
    let content = format!("{}.{}", BASE64.encode(header), BASE64.encode(claims));
    format!("{content}.{}", BASE64.encode(hmac(&content))).into_bytes()
}

fn hmac(content: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("a key of any length");
    mac.update(content.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn json(part: &str) -> Value {
    let bytes = BASE64.decode(part).expect("an accepted part is base64");
    serde_json::from_slice(&bytes).expect("an accepted part is JSON")
}

/// The account of the token, if the service accepts it.
fn accepted(token: &[u8]) -> Option<String> {
    // The keys are read again when a token names another one, so the folder stays.
    static APP: LazyLock<Mutex<(Runtime, Router, TempDir)>> = LazyLock::new(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let routes = runtime.block_on(routes(folder.path()));
        Mutex::new((runtime, routes, folder))
    });
    let bearer = HeaderValue::from_bytes(&[b"Bearer ", token].concat()).ok()?;
    let request = Request::builder().header(AUTHORIZATION, bearer).body(Body::empty()).expect("a request");
    let app = APP.lock().expect("no panic before");
    let (runtime, routes, _) = &*app;
    runtime.block_on(async {
        let response = routes.clone().oneshot(request).await.expect("routes never fail");
        match response.status().as_u16() {
            200 => {
                let body = axum::body::to_bytes(response.into_body(), 1_024).await.expect("a short body");
                Some(String::from_utf8(body.to_vec()).expect("an account is text"))
            }
            401 => None,
            other => panic!("a token was answered with {other}"),
        }
    })
}

/// One route, which answers with the account.
async fn routes(folder: &Path) -> Router {
    let keys = folder.join("jwks.json");
    std::fs::write(&keys, include_str!("../data/jwks.json")).expect("a temporary folder can be written");
    let config = format!(
        "data: {{database: {{driver: sqlite, source: unused}}}}\n\
         billing: {{prices: {{asset: 1}}}}\n\
         server: {{http: {{auth: {{mode: jwt, jwt: {{issuer: issuer, audience: billing, jwks_file: '{}', \
         algorithms: [RS256, ES256, EdDSA, HS256], secret: '{SECRET}'}}}}}}}}\n",
        keys.display(),
    );
    let file = folder.join("config.yaml");
    std::fs::write(&file, config).expect("a temporary folder can be written");
    let server = Config::load(&file).expect("the configuration is valid").server;
    let refusals = Arc::new(Refusals::new(Arc::new(Metrics::new().expect("metrics"))));
    let callers = Arc::new(Callers::new(&server, refusals.clone()));
    let jwt = server.http.auth.jwt.as_ref().expect("it is configured");
    let keys = KeySource::open(jwt).await.expect("the keys are valid");
    let front_end =
        FrontEnd::new(&server, keys, callers, Forwarding::default(), refusals).expect("the secret is valid");
    front_end.protect(Router::new().route("/", get(async |account: axum::Extension<Account>| account.user.clone())))
}
