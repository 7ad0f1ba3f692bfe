//! Every route and rpc, on both ports and over both protocols, with every kind of caller. Each cell is compared
//! with the table in docs/security.md.

use std::{collections::BTreeSet, fs, path::Path};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use billing_service::config::Role;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use prost_reflect::DescriptorPool;
use reqwest::Method;
use serde_json::json;
use tokio_stream::StreamExt;
use tonic::{Request, transport::Channel};

use super::{
    issuer::{self, SigningKey, claims, with},
    outcome,
};
use crate::harness::{Service, Sqlite, code_of};

/// A row of the table: an rpc or a route, and the callers that may use it.
struct Row {
    name: String,
    routes: Vec<(Method, String)>,
    /// The roles on the internal port; `None` if it is not served there.
    roles: Option<Vec<String>>,
    /// The rule on the public port; `None` if it is not served there.
    public: Option<String>,
}

const EVERYONE: &str = "everyone";

/// The rows of the pages are tested in `console`: they answer in HTML.
fn table() -> Vec<Row> {
    let mut table = whole_table();
    table.retain(|row| row.routes.iter().all(|(_, path)| !path.starts_with("/console")));
    table
}

fn whole_table() -> Vec<Row> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/security.md")).unwrap();
    let lines = text.lines().skip_while(|line| !line.starts_with("| rpc or route |")).skip(2);
    let cell = |cell: &str| Some(cell.trim().to_owned()).filter(|cell| cell != "-");
    lines
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').collect();
            let [name, routes, roles, public] = cells[..] else { panic!("{line}") };
            let routes = routes.split('`').skip(1).step_by(2).map(|route| {
                let (method, path) = route.split_once(' ').unwrap();
                (method.parse().unwrap(), path.to_owned())
            });
            Row {
                name: name.trim().trim_matches('`').to_owned(),
                routes: routes.collect(),
                roles: cell(roles).map(|roles| roles.split(", ").map(str::to_owned).collect()),
                public: cell(public),
            }
        })
        .collect()
}

/// Every route with its method.
pub fn routes_of_the_access_table() -> Vec<(Method, String)> {
    whole_table().into_iter().flat_map(|row| row.routes).collect()
}

/// A page of the console.
pub struct PageRow {
    pub method: Method,
    pub path: String,
    /// As in [`Row`].
    pub roles: Option<Vec<String>>,
    pub public: Option<String>,
}

pub fn pages_of_the_access_table() -> Vec<PageRow> {
    let rows = whole_table().into_iter().flat_map(|Row { routes, roles, public, .. }| {
        let page = move |(method, path)| PageRow { method, path, roles: roles.clone(), public: public.clone() };
        routes.into_iter().map(page)
    });
    rows.filter(|page| page.path.starts_with("/console")).collect()
}

const PACKAGES: [&str; 2] = ["billing.v1", "envoy.service.ratelimit.v3"];

/// The full names of the rpcs of the contract, and of the rate limit service.
fn rpcs() -> Vec<(String, String)> {
    let pool = DescriptorPool::decode(billing_service::service::proto::DESCRIPTORS).unwrap();
    let services: Vec<_> = pool.services().filter(|service| PACKAGES.contains(&service.package_name())).collect();
    let methods = services.iter().flat_map(|service| service.methods().collect::<Vec<_>>());
    methods
        .map(|method| (method.name().into(), format!("/{}/{}", method.parent_service().full_name(), method.name())))
        .collect()
}

/// The paths that the sources give to a router.
fn routed_paths() -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                // The sandbox is another service.
                folders.extend((!path.ends_with("sandbox")).then_some(path));
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            for call in text.split(".route(").skip(1) {
                let argument = call.trim_start().split([',', ')']).next().unwrap();
                paths.insert(match argument {
                    "CALLBACK_PATH" => billing_service::service::routes::CALLBACK_PATH.into(),
                    "AUTHORIZE_PATH" => billing_service::service::routes::AUTHORIZE_PATH.into(),
                    "RECHARGE_PATH" => billing_service::service::routes::RECHARGE_PATH.into(),
                    literal => literal.trim_matches('"').to_owned(),
                });
            }
        }
    }
    paths
}

#[test]
fn every_rpc_and_every_route_is_in_the_access_table() {
    let table = whole_table();
    for (rpc, _) in rpcs() {
        assert!(table.iter().any(|row| row.name == rpc), "{rpc} is not in the access table of docs/security.md");
    }
    let listed: BTreeSet<&str> =
        table.iter().flat_map(|row| row.routes.iter().map(|(_, path)| path.as_str())).collect();
    let routed = routed_paths();
    assert!(routed.len() > 25, "the routes have moved: {routed:?}");
    for path in &routed {
        assert!(listed.contains(path.as_str()), "{path} is not in the access table of docs/security.md");
    }
}

/// The token of the caller with one role.
fn token(role: &str) -> String {
    format!("a-token-of-the-role-{role}")
}

/// A caller for each role.
fn callers() -> String {
    let caller = |role: Role| {
        let hash = sha256(&token(role.name()));
        format!("{{name: {0}, roles: [{0}], token_sha256: ['{hash}']}}", role.name())
    };
    format!("[{}]", Role::ALL.map(caller).join(", "))
}

pub fn sha256(text: &str) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

const LEGACY: &str = "a-token-of-the-legacy-key";

async fn guarded(more: &[(&str, &str)]) -> Service {
    let (callers, legacy) = (callers(), format!("[{LEGACY}]"));
    let mut changes = vec![
        ("server.grpc.auth.callers", callers.as_str()),
        ("server.grpc.auth.protect_operations", "true"),
        ("server.grpc.internal_tokens", &legacy),
        ("payment_service.grpc_addr", "127.0.0.1:9"),
        // If callbacks carry no proof, the role of the caller protects them.
        ("payment_service.callback_auth", "none"),
    ];
    changes.extend(more);
    Service::start_with(Sqlite, &changes).await
}

/// The error code of a reply over gRPC, or `""`. The message is empty, so an admitted call succeeds or is
/// refused for its content.
async fn over_grpc(channel: &Channel, path: &str, authorization: Option<&str>) -> String {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let mut request = Request::new(tokio_stream::once(()));
    if let Some(value) = authorization {
        request.metadata_mut().insert("authorization", value.parse().unwrap());
    }
    let answer = match grpc.streaming(request, path.parse().unwrap(), codec).await {
        Ok(replies) => replies.into_inner().next().await.transpose(),
        Err(status) => Err(status),
    };
    answer.map_or_else(|status| code_of(&status).1, |_| String::new())
}

async fn over_rest(service: &Service, base: &str, method: &Method, path: &str, authorization: Option<&str>) -> String {
    let path = path.replace("{user_id}", "u").replace("{trace_id}", "t");
    let path = path.replace("{order_id}", "o").replace("{api_key_id}", "k");
    let mut request = service.http.request(method.clone(), format!("{base}{path}"));
    if *method == Method::POST {
        request = request.body("{}");
    }
    if let Some(value) = authorization {
        request = request.header("authorization", value);
    }
    outcome(request.send().await.unwrap()).await.1
}

#[tokio::test]
async fn the_internal_port_requires_the_role_in_the_table_over_both_protocols() {
    let service = guarded(&[]).await;
    let base = format!("http://{}", service.app.grpc_addr);
    let channel = Channel::from_shared(base.clone()).unwrap().connect().await.unwrap();
    let full_names = rpcs();
    let mut proofs: Vec<(String, Option<String>)> = vec![
        ("none".into(), None),
        ("forged".into(), Some("Bearer a-token-of-nobody-at-all".into())),
        ("other scheme".into(), Some(format!("Basic {}", token("admin")))),
    ];
    proofs.extend(Role::ALL.map(|role| (role.name().to_owned(), Some(format!("Bearer {}", token(role.name()))))));
    proofs.push(("admin".into(), Some(format!("bearer {LEGACY}"))));
    let (mut wrong, mut cells) = (Vec::new(), 0);
    for row in table() {
        let Some(roles) = &row.roles else { continue };
        for (who, authorization) in &proofs {
            let authorization = authorization.as_deref();
            let mut answers = Vec::new();
            // The routes of the front end are on the public port.
            for (method, path) in row.routes.iter().filter(|(_, path)| !path.starts_with("/api/")) {
                answers.push((path.clone(), over_rest(&service, &base, method, path, authorization).await));
            }
            if let Some((_, path)) = full_names.iter().find(|(name, _)| *name == row.name) {
                answers.push((path.clone(), over_grpc(&channel, path, authorization).await));
            }
            let is_open = roles.iter().any(|role| role == EVERYONE);
            let expected = match who.as_str() {
                _ if is_open => None,
                "none" | "forged" | "other scheme" => Some("10012"),
                role if roles.iter().any(|allowed| allowed == role) => None,
                _ => Some("10013"),
            };
            for (path, code) in answers {
                cells += 1;
                if !is_as_expected(&code, expected) {
                    wrong.push(format!("{path} as {who}: got {code:?}, the table says {expected:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(cells > 280, "only {cells} cells");
}

/// Whether a call was refused with the expected code, or admitted if no code is expected.
fn is_as_expected(code: &str, expected: Option<&str>) -> bool {
    expected.map_or(code != "10012" && code != "10013", |expected| code == expected)
}

/// A token without a signature. Its header names no algorithm.
fn unsigned(user: &str) -> String {
    let part = |value: serde_json::Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.", part(json!({"alg": "none", "typ": "JWT"})), part(claims(user)))
}

#[tokio::test]
async fn the_public_port_shows_a_user_only_its_own_account() {
    let key = SigningKey::new("k1", Algorithm::RS256);
    let stranger = SigningKey::new("k1", Algorithm::RS256);
    let keys = issuer::file(std::slice::from_ref(&key));
    let service = guarded(&[
        ("server.http.auth.mode", "jwt"),
        ("server.http.auth.jwt.issuer", issuer::ISSUER),
        ("server.http.auth.jwt.audience", issuer::AUDIENCE),
        ("server.http.auth.jwt.algorithms", "[RS256]"),
        ("server.http.auth.jwt.jwks_file", keys.path().to_str().unwrap()),
    ])
    .await;
    let own = claims("u");
    // The verification key is public, so anyone can compute this HMAC.
    let public_key = serde_json::to_vec(&key.public()).unwrap();
    let hmac = encode(&Header::new(Algorithm::HS256), &own, &EncodingKey::from_secret(&public_key).unwrap()).unwrap();
    let (refused, denied, fine) = (Some("10012"), Some("10013"), None);
    // For each proof: the answers to reads of the accounts u and v, and to writes of them.
    let proofs = [
        ("none", None, [refused; 4]),
        ("garbage", Some("x.y.z".into()), [refused; 4]),
        ("caller of the internal port", Some(token("admin")), [refused; 4]),
        ("forged", Some(stranger.sign(&own)), [refused; 4]),
        ("unsigned", Some(unsigned("u")), [refused; 4]),
        ("HMAC with the public key", Some(hmac), [refused; 4]),
        ("expired", Some(key.sign(&with(&own, "exp", json!(issuer::now() - 120)))), [refused; 4]),
        ("without an expiry", Some(key.sign(&with(&own, "exp", json!(null)))), [refused; 4]),
        ("not valid yet", Some(key.sign(&with(&own, "nbf", json!(issuer::now() + 120)))), [refused; 4]),
        ("other audience", Some(key.sign(&with(&own, "aud", json!("mail")))), [refused; 4]),
        ("without an audience", Some(key.sign(&with(&own, "aud", json!(null)))), [refused; 4]),
        ("other issuer", Some(key.sign(&with(&own, "iss", json!("https://evil.example")))), [refused; 4]),
        ("without an account", Some(key.sign(&with(&own, "sub", json!(null)))), [refused; 4]),
        ("own", Some(key.sign(&own)), [fine, denied, fine, denied]),
        (
            "within the leeway",
            Some(key.sign(&with(&own, "exp", json!(issuer::now() - 20)))),
            [fine, denied, fine, denied],
        ),
        (
            "several audiences",
            Some(key.sign(&with(&own, "aud", json!(["mail", "billing"])))),
            [fine, denied, fine, denied],
        ),
        (
            "a list of scopes",
            Some(key.sign(&with(&own, "scope", json!(["billing:read"])))),
            [fine, denied, denied, denied],
        ),
        ("a scope of another form", Some(key.sign(&with(&own, "scope", json!({"billing:read": true})))), [refused; 4]),
        (
            "reads alone",
            Some(key.sign(&with(&own, "scope", json!("openid billing:read")))),
            [fine, denied, denied, denied],
        ),
        ("support", Some(key.sign(&with(&own, "scope", json!("billing:support")))), [fine, fine, denied, denied]),
        ("other user", Some(key.sign(&claims("v"))), [denied, fine, denied, fine]),
    ];
    let base = format!("http://{}", service.app.http_addr);
    let (mut wrong, mut cells) = (Vec::new(), 0);
    for row in table() {
        let Some(rule) = &row.public else { continue };
        for (method, route) in &row.routes {
            for (who, proof, [read_u, read_v, write_u, write_v]) in &proofs {
                let authorization = proof.as_ref().map(|token| format!("Bearer {token}"));
                for (user, read, write) in [("u", read_u, write_u), ("v", read_v, write_v)] {
                    // Without a user id in the request, the token names the account.
                    let path = route.replace("{user_id}", user);
                    let query = if *method == Method::GET { format!("?user_id={user}") } else { String::new() };
                    let url = format!("{base}{}{query}", path.replace("{order_id}", "o"));
                    let mut request = service.http.request(method.clone(), url);
                    if *method == Method::POST {
                        request = request.body(json!({"user_id": user}).to_string());
                    }
                    if let Some(authorization) = &authorization {
                        request = request.header("authorization", authorization);
                    }
                    let code = outcome(request.send().await.unwrap()).await.1;
                    let expected = match (rule.as_str(), *method == Method::POST) {
                        (EVERYONE, _) => fine,
                        (_, false) => *read,
                        (_, true) => *write,
                    };
                    cells += 1;
                    if !is_as_expected(&code, expected) {
                        wrong.push(format!("{method} {path} of {user} as {who}: got {code:?}, not {expected:?}"));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(cells > 400, "only {cells} cells");
}
