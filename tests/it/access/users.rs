//! The proofs of users: tokens of the issuer, and the header of a gateway.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{
    issuer::{self, KeyServer, SigningKey, claims, with},
    matrix::sha256,
    outcome,
};
use crate::{
    bounds::begin_with,
    harness::{
        Database, Service, Sqlite,
        payments::Paying,
        wait::{soon, until},
    },
};

async fn with_keys(algorithms: &str, (source, keys): (&str, &str)) -> Service {
    let source = format!("server.http.auth.jwt.{source}");
    let changes = [
        ("server.http.auth.mode", "jwt"),
        ("server.http.auth.jwt.issuer", issuer::ISSUER),
        ("server.http.auth.jwt.audience", issuer::AUDIENCE),
        ("server.http.auth.jwt.algorithms", algorithms),
        (source.as_str(), keys),
    ];
    Service::start_with(Sqlite, &changes).await
}

async fn get(service: &Service, path: &str, token: &str) -> (u16, String) {
    let url = format!("http://{}{path}", service.app.http_addr);
    outcome(service.http.get(url).bearer_auth(token).send().await.unwrap()).await
}

const ACCOUNT: &str = "/api/v1/billing/account";

#[tokio::test]
async fn a_token_of_each_algorithm_is_accepted_and_names_the_account() {
    for algorithm in [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] {
        let key = SigningKey::new("k1", algorithm);
        let file = issuer::file(std::slice::from_ref(&key));
        let name =
            format!("[{}]", if algorithm == Algorithm::EdDSA { "EdDSA".into() } else { format!("{algorithm:?}") });
        let service = with_keys(&name, ("jwks_file", file.path().to_str().unwrap())).await;
        let url = format!("http://{}{ACCOUNT}", service.app.http_addr);
        let reply = service.http.get(url).bearer_auth(key.sign(&claims("alice"))).send().await.unwrap();
        assert_eq!(reply.json::<serde_json::Value>().await.unwrap()["user_id"], "alice", "{algorithm:?}");
        // The configuration names another family of algorithms.
        for other in [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA].into_iter().filter(|it| *it != algorithm) {
            let token = SigningKey::new("k1", other).sign(&claims("alice"));
            assert_eq!(get(&service, ACCOUNT, &token).await, (401, "10012".into()), "{algorithm:?} {other:?}");
        }
    }
}

#[tokio::test]
async fn a_token_signed_with_a_shared_secret_may_have_a_numeric_account() {
    const SECRET: &str = "a-secret-of-thirty-two-characters";
    let service = with_keys("[HS256]", ("secret", SECRET)).await;
    let sign = |claims: &serde_json::Value, secret: &str| {
        encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(secret.as_bytes()).unwrap()).unwrap()
    };
    let token = sign(&with(&claims("u"), "sub", json!(1001)), SECRET);
    assert_eq!(get(&service, "/api/v1/billing/account/1001", &token).await.0, 200);
    assert_eq!(get(&service, "/api/v1/billing/account/1002", &token).await, (403, "10013".into()));
    assert_eq!(get(&service, ACCOUNT, &sign(&claims("u"), "another-secret-of-thirty-two-chars")).await.0, 401);
}

#[tokio::test]
async fn a_refusal_says_how_to_authenticate_and_is_counted_by_its_reason() {
    let key = SigningKey::new("k1", Algorithm::ES256);
    let file = issuer::file(std::slice::from_ref(&key));
    let service = with_keys("[ES256]", ("jwks_file", file.path().to_str().unwrap())).await;
    let url = format!("http://{}{ACCOUNT}", service.app.http_addr);
    let refused = service.http.get(&url).send().await.unwrap();
    assert_eq!(refused.headers()["www-authenticate"], "Bearer");
    get(&service, ACCOUNT, &key.sign(&with(&claims("u"), "exp", json!(1)))).await;
    get(&service, ACCOUNT, &key.sign(&with(&claims("u"), "aud", json!("mail")))).await;
    get(&service, "/api/v1/billing/account/v", &key.sign(&claims("u"))).await;
    let metrics = service.metrics().await;
    for (caller, reason) in
        [("unknown", "missing"), ("unknown", "expired"), ("unknown", "audience"), ("user", "account")]
    {
        let line = format!("billing_access_refused_total{{caller=\"{caller}\",reason=\"{reason}\"}} 1");
        assert!(metrics.contains(&line), "{line} is not in {metrics}");
    }
}

/// The connection may be that of a proxy, which other users share.
#[tokio::test]
async fn requests_of_a_user_are_limited_and_the_refusals_do_not_wait() {
    let key = SigningKey::new("k1", Algorithm::ES256);
    let file = issuer::file(std::slice::from_ref(&key));
    let database = Database::create(Sqlite).await;
    let mut config = database.config(&[
        ("server.http.auth.mode", "jwt"),
        ("server.http.auth.jwt.issuer", issuer::ISSUER),
        ("server.http.auth.jwt.audience", issuer::AUDIENCE),
        ("server.http.auth.jwt.algorithms", "[ES256]"),
        ("server.http.auth.jwt.jwks_file", file.path().to_str().unwrap()),
        ("server.limits", "{refused_calls: 1, requests_per_user: 1}"),
    ]);
    config.server.limits.refusal_pause = Duration::from_secs(600);
    let service = Service::start_configured(database, config).await;
    let token = key.sign(&claims("u"));
    let proof = format!("authorization: Bearer {token}\r\n");
    let unfinished = begin_with(service.app.http_addr, "/api/v1/billing/recharge", &proof, 1_000, 10).await;
    let refused = (503, "10014".to_owned());
    until("the request is open", async || get(&service, ACCOUNT, &token).await == refused).await;
    for _ in 0..3 {
        assert_eq!(soon(get(&service, ACCOUNT, &token)).await, refused);
    }
    assert_eq!(get(&service, ACCOUNT, &key.sign(&claims("v"))).await.0, 200);
    drop(unfinished);
}

#[tokio::test]
async fn a_new_key_is_fetched_once_and_unknown_keys_cause_no_more_fetches() {
    let (old, new) = (SigningKey::new("old", Algorithm::ES256), SigningKey::new("new", Algorithm::ES256));
    let server = KeyServer::start(std::slice::from_ref(&old)).await;
    let service = with_keys("[ES256]", ("jwks_url", &server.url())).await;
    assert_eq!(get(&service, ACCOUNT, &old.sign(&claims("u"))).await.0, 200);
    assert_eq!(server.reads.load(SeqCst), 1);
    *server.set.lock().unwrap() = issuer::set(&[old.clone(), new.clone()]);
    assert_eq!(get(&service, ACCOUNT, &new.sign(&claims("u"))).await.0, 200);
    assert_eq!(server.reads.load(SeqCst), 2);
    let unknown = SigningKey::new("unknown", Algorithm::ES256).sign(&claims("u"));
    for _ in 0..20 {
        assert_eq!(get(&service, ACCOUNT, &unknown).await, (401, "10012".into()));
    }
    assert_eq!(server.reads.load(SeqCst), 2);
    assert_eq!(get(&service, ACCOUNT, &old.sign(&claims("u"))).await.0, 200);
}

#[tokio::test]
async fn without_the_keys_of_the_issuer_a_request_is_an_outage_and_not_a_refusal() {
    let key = SigningKey::new("k1", Algorithm::ES256);
    // No server listens on this port.
    let service = with_keys("[ES256]", ("jwks_url", "http://127.0.0.1:9/keys")).await;
    assert_eq!(get(&service, ACCOUNT, &key.sign(&claims("u"))).await, (503, "10014".into()));
    assert_eq!(service.get("/health").await.0, 200);
}

#[tokio::test]
async fn a_changed_key_file_is_read_without_a_restart() {
    let (old, new) = (SigningKey::new("old", Algorithm::EdDSA), SigningKey::new("new", Algorithm::EdDSA));
    let file = issuer::file(std::slice::from_ref(&old));
    let service = with_keys("[EdDSA]", ("jwks_file", file.path().to_str().unwrap())).await;
    std::fs::write(file.path(), issuer::set(std::slice::from_ref(&new))).unwrap();
    until("the new key is accepted", async || get(&service, ACCOUNT, &new.sign(&claims("u"))).await.0 == 200).await;
    assert_eq!(get(&service, ACCOUNT, &old.sign(&claims("u"))).await.0, 401);
}

#[tokio::test]
async fn only_a_gateway_may_name_the_user() {
    let callers = format!(
        "[{{name: edge, roles: [gateway], token_sha256: ['{}']}}, {{name: ops, roles: [metrics], token_sha256: ['{}']}}]",
        sha256("the-token-of-the-edge"),
        sha256("the-token-of-the-scraper")
    );
    let changes = [
        ("server.grpc.auth.callers", callers.as_str()),
        ("server.http.auth.mode", "gateway"),
        ("server.http.auth.gateway.identity_header", "x-account"),
    ];
    let service = Service::start_with(Sqlite, &changes).await;
    let get = async |path: &str, headers: &[(&str, &str)]| {
        let mut request = service.http.get(format!("http://{}{path}", service.app.http_addr));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        outcome(request.send().await.unwrap()).await
    };
    let edge = ("x-gateway-token", "the-token-of-the-edge");
    assert_eq!(get(ACCOUNT, &[edge, ("x-account", "alice")]).await.0, 200);
    assert_eq!(get("/api/v1/billing/account/bob", &[edge, ("x-account", "alice")]).await, (403, "10013".into()));
    let refused = (401, "10012".to_owned());
    assert_eq!(get(ACCOUNT, &[("x-account", "alice")]).await, refused);
    assert_eq!(get(ACCOUNT, &[edge]).await, refused);
    assert_eq!(get(ACCOUNT, &[edge, ("x-user-id", "alice")]).await, refused);
    assert_eq!(get(ACCOUNT, &[edge, ("x-account", "alice"), ("x-account", "bob")]).await, refused);
    assert_eq!(get(ACCOUNT, &[("x-gateway-token", "a-forged-token"), ("x-account", "alice")]).await, refused);
    let scraper = ("x-gateway-token", "the-token-of-the-scraper");
    assert_eq!(get(ACCOUNT, &[scraper, ("x-account", "alice")]).await, (403, "10013".into()));
}

#[tokio::test]
async fn an_order_of_another_user_does_not_exist_for_a_user() {
    let key = SigningKey::new("k1", Algorithm::ES256);
    let file = issuer::file(std::slice::from_ref(&key));
    let paying = Paying::start_with(
        Sqlite,
        &[
            ("server.http.auth.mode", "jwt"),
            ("server.http.auth.jwt.issuer", issuer::ISSUER),
            ("server.http.auth.jwt.audience", issuer::AUDIENCE),
            ("server.http.auth.jwt.algorithms", "[ES256]"),
            ("server.http.auth.jwt.jwks_file", file.path().to_str().unwrap()),
        ],
    )
    .await;
    let service = &paying.service;
    let url = format!("http://{}/api/v1/billing/recharge", service.app.http_addr);
    let request = service.http.post(url).bearer_auth(key.sign(&claims("alice")));
    let started = request.body(r#"{"amount": 5, "payment_method": "alipay"}"#).send().await.unwrap();
    let started: serde_json::Value = started.json().await.unwrap();
    let order = format!("/api/v1/billing/recharge/{}", started["order_id"].as_str().unwrap());
    assert_eq!(get(service, &order, &key.sign(&claims("alice"))).await.0, 200);
    assert_eq!(get(service, &order, &key.sign(&claims("bob"))).await, (404, "10003".into()));
    let support = key.sign(&with(&claims("bob"), "scope", json!("billing:support")));
    assert_eq!(get(service, &format!("{order}?user_id=alice"), &support).await.0, 200);
}

/// The requests of one user stay open, because their bodies are not complete.
#[tokio::test]
async fn open_requests_of_a_user_have_a_limit_and_other_users_go_on() {
    const MOST: usize = 100;
    let key = SigningKey::new("k1", Algorithm::ES256);
    let file = issuer::file(std::slice::from_ref(&key));
    let service = with_keys("[ES256]", ("jwks_file", file.path().to_str().unwrap())).await;
    let head = format!(
        "POST /api/v1/billing/recharge HTTP/1.1\r\nhost: b\r\ncontent-type: application/json\r\n\
         authorization: Bearer {}\r\ncontent-length: 9\r\n\r\n",
        key.sign(&claims("alice"))
    );
    let mut unfinished = Vec::new();
    for _ in 0..MOST {
        let mut stream = TcpStream::connect(service.app.http_addr).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        unfinished.push(stream);
    }
    let token = key.sign(&claims("alice"));
    until("all requests are open", async || get(&service, ACCOUNT, &token).await == (503, "10014".into())).await;
    assert_eq!(get(&service, ACCOUNT, &key.sign(&claims("bob"))).await.0, 200);
    drop(unfinished);
    until("new requests are admitted again", async || get(&service, ACCOUNT, &token).await.0 == 200).await;
}
