//! Starts with an insecure configuration.

use billing_service::config::Config;

use super::matrix::sha256;
use crate::harness::{Database, Service, Sqlite, process::ServerProcess};

/// A configuration for production that passes all rules.
fn closed() -> Vec<(&'static str, String)> {
    let callers = format!("[{{name: edge, roles: [gateway], token_sha256: ['{}']}}]", sha256("a-token-of-the-edge"));
    vec![
        ("environment", "production".into()),
        ("server.http.addr", "'0.0.0.0:0'".into()),
        ("server.grpc.auth.callers", callers),
        ("server.http.auth.mode", "gateway".into()),
        ("server.http.hosts", "[billing.example.com]".into()),
        ("payment_service.grpc_addr", "127.0.0.1:9".into()),
        ("payment_service.callback_auth", "confirm".into()),
    ]
}

async fn load(keys: &[(&'static str, String)]) -> anyhow::Result<Config> {
    let keys: Vec<_> = keys.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let config = Config::load(&Database::create(Sqlite).await.config_file(&keys))?;
    config.refuse_open_doors().map(|()| config)
}

#[tokio::test]
async fn an_insecure_start_in_production_is_refused_and_names_its_key() {
    load(&closed()).await.unwrap();
    for (key, open) in [
        ("server.grpc.auth.callers", "[]"),
        ("server.http.auth.mode", "none"),
        ("server.http.hosts", "[]"),
        ("server.http.internal_routes", "true"),
        ("payment_service.callback_auth", "none"),
    ] {
        let mut keys = closed();
        if key == "server.grpc.auth.callers" {
            // Mode gateway needs a caller, so this case uses mode jwt.
            keys.extend([
                ("server.http.auth.mode", "jwt".into()),
                (
                    "server.http.auth.jwt",
                    "{issuer: i, audience: a, algorithms: [RS256], jwks_url: 'https://i/k'}".into(),
                ),
            ]);
        }
        keys.push((key, open.into()));
        let refused = load(&keys).await.unwrap_err().to_string();
        assert!(refused.contains(key) && refused.contains("production"), "{refused}");
        keys.push(("server.insecure", "true".into()));
        load(&keys).await.unwrap();
        keys.extend([("server.insecure", "false".into()), ("environment", "staging".into())]);
        load(&keys).await.unwrap();
    }
}

#[tokio::test]
async fn the_pages_of_operators_are_an_open_door_without_callers() {
    let database = Database::create(Sqlite).await;
    let is_open = |callers: &str| {
        let config = database.config(&[("console.enabled", "true"), ("server.grpc.auth.callers", callers)]);
        config.open_doors().iter().any(|(key, _)| *key == "console.enabled")
    };
    let caller = format!("[{{name: desk, roles: [support], token_sha256: ['{}']}}]", sha256("a-token-of-the-desk"));
    assert!(is_open("[]") && !is_open(&caller));
}

#[tokio::test]
async fn users_need_no_proof_on_the_loopback_address() {
    let mut keys = closed();
    for (key, value) in
        [("server.http.addr", "'127.0.0.1:0'"), ("server.http.auth.mode", "none"), ("server.http.hosts", "[]")]
    {
        keys.push((key, value.into()));
    }
    load(&keys).await.unwrap();
}

#[tokio::test]
async fn an_insecure_start_shows_in_a_metric() {
    let open = [("environment", "production"), ("server.insecure", "true")];
    assert!(Service::start_with(Sqlite, &open).await.metrics().await.contains("billing_insecure 1"));
    assert!(Service::start(Sqlite).await.metrics().await.contains("billing_insecure 0"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_insecure_start_names_its_open_doors_in_the_log() {
    let database = Database::create(Sqlite).await;
    let open = [("environment", "production"), ("server.insecure", "true"), ("server.http.addr", "'0.0.0.0:0'")];
    let (_server, mut log) = ServerProcess::start_logged(&database.config_file(&open));
    let line = log.line(|line| line["fields"]["message"] == "server.insecure is true: open doors are allowed");
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["fields"]["keys"], "server.grpc.auth.callers, server.http.auth.mode, server.http.hosts");
}

#[tokio::test]
async fn a_bad_access_configuration_is_refused_by_its_key_and_shows_no_secret() {
    let caller = |fields: &str| format!("[{{name: edge, roles: [gateway], {fields}}}]");
    let hash = sha256("a-token-of-the-edge");
    let jwt = |fields: &str| format!("{{issuer: i, audience: a, {fields}}}");
    for (key, value, why) in [
        ("server.grpc.auth.callers", caller("token_sha256: [a-plain-token-by-mistake]"), "sha256sum"),
        ("server.grpc.auth.callers", caller(""), "needs token_sha256 or certificate"),
        ("server.grpc.auth.callers", "[{name: edge, roles: [], certificate: [a]}]".into(), "no role"),
        ("server.grpc.auth.callers", "[{name: edge, roles: [root], certificate: [a]}]".into(), "one of gateway"),
        ("server.grpc.auth.callers", "[{name: 'a b', roles: [admin], certificate: [a]}]".into(), "letters"),
        (
            "server.grpc.auth.callers",
            "[{name: a, roles: [admin], certificate: [x]}, {name: a, roles: [admin], certificate: [y]}]".into(),
            "twice",
        ),
        ("server.grpc.auth.callers", caller(&format!("token_sha256: ['{hash}', '{hash}']")), "twice"),
        ("server.grpc.auth.callers", caller(&format!("token_sha256: ['{hash}'], color: red")), "color"),
        ("server.http.auth.mode", "jwt".into(), "needs it"),
        ("server.http.auth.mode", "basic".into(), "one of jwt, gateway, none"),
        ("server.http.auth.mode", "gateway".into(), "needs a caller"),
        ("server.http.auth.jwt", jwt("algorithms: [none], jwks_url: 'https://i/k'"), "one of RS256"),
        ("server.http.auth.jwt", jwt("algorithms: [], jwks_url: 'https://i/k'"), "at least one"),
        ("server.http.auth.jwt", jwt("algorithms: [RS256]"), "is required"),
        ("server.http.auth.jwt", jwt("algorithms: [RS256], jwks_url: 'http://i/k'"), "https"),
        ("server.http.auth.jwt", jwt("algorithms: [RS256], jwks_url: 'https://i/k', jwks_file: k"), "one of them"),
        ("server.http.auth.jwt", jwt("algorithms: [HS256]"), "is required"),
        ("server.http.auth.jwt", jwt("algorithms: [HS256], secret: too-short-a-secret"), "32"),
        (
            "server.http.auth.jwt",
            jwt("algorithms: [RS256], jwks_url: 'https://i/k', secret: a-secret-of-thirty-two-characters"),
            "HS256",
        ),
        ("server.http.cors.origins", "['*']".into(), "origin"),
        ("server.http.cors.origins", "['https://app.example.com/']".into(), "origin"),
        ("server.http.hosts", "['https://billing.example.com']".into(), "host"),
        ("server.trusted_proxies", "[proxy.internal]".into(), "network"),
    ] {
        let refused = load(&[(key, value.clone())]).await.unwrap_err().to_string();
        assert!(refused.contains("config key server.") && refused.contains(why), "{key}: {value}: {refused}");
        for secret in ["a-plain-token-by-mistake", "too-short-a-secret", "a-secret-of-thirty-two-characters", &hash] {
            assert!(!refused.contains(secret), "{refused}");
        }
    }
}
