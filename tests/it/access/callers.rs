//! Callers of the internal port: tokens that change, guesses, and the log.

use serde_json::Value;

use super::{matrix::sha256, outcome};
use crate::harness::{Service, Sqlite};

async fn with_callers(callers: &str) -> Service {
    Service::start_with(Sqlite, &[("server.grpc.auth.callers", callers)]).await
}

async fn check(service: &Service, token: &str) -> (u16, String) {
    let body = r#"{"user_id":"u","service_name":"asset","count":1}"#;
    let url = format!("http://{}/internal/v1/billing/check", service.app.grpc_addr);
    outcome(service.http.post(url).bearer_auth(token).body(body).send().await.unwrap()).await
}

#[tokio::test]
async fn a_caller_has_two_tokens_while_it_changes_them() {
    let (old, new) = (sha256("the-old-token"), sha256("the-new-token"));
    let service = with_callers(&format!("[{{name: edge, roles: [gateway], token_sha256: ['{old}', '{new}']}}]")).await;
    assert_eq!(check(&service, "the-old-token").await.0, 200);
    assert_eq!(check(&service, "the-new-token").await.0, 200);
    assert_eq!(check(&service, &old).await, (401, "10012".into()), "the hash of a token is not a token");
}

#[tokio::test]
async fn a_refusal_of_a_role_names_it() {
    let hash = sha256("the-token-of-support");
    let service = with_callers(&format!("[{{name: desk, roles: [support], token_sha256: ['{hash}']}}]")).await;
    let url = format!("http://{}/internal/v1/billing/adjust", service.app.grpc_addr);
    let refused = service.http.post(url).bearer_auth("the-token-of-support").body("{}").send().await.unwrap();
    assert_eq!(refused.status(), 403);
    let body: Value = refused.json().await.unwrap();
    assert_eq!(body["message"], "caller desk needs the role admin");
    let line = "billing_access_refused_total{caller=\"desk\",reason=\"role\"} 1";
    assert!(service.metrics().await.contains(line));
}

/// After many wrong tokens from an address, its refusals reveal nothing. A known caller is still admitted.
#[tokio::test]
async fn an_address_that_guesses_tokens_learns_nothing_more() {
    let (known, late) = (sha256("the-token-of-the-edge"), sha256("the-token-of-another"));
    let callers = format!(
        "[{{name: edge, roles: [gateway], token_sha256: ['{known}']}}, {{name: late, roles: [gateway], token_sha256: ['{late}']}}]"
    );
    let limits = ("server.limits.wrong_tokens", "1");
    let service = Service::start_with(Sqlite, &[limits, ("server.grpc.auth.callers", &callers)]).await;
    assert_eq!(check(&service, "the-token-of-the-edge").await.0, 200);
    for guess in 0..40 {
        assert_eq!(check(&service, &format!("guess-{guess}")).await, (401, "10012".into()));
    }
    // A right guess has the same answer as a wrong one.
    assert_eq!(check(&service, "the-token-of-another").await, (401, "10012".into()));
    assert_eq!(check(&service, "the-token-of-the-edge").await.0, 200);
    let metrics = service.metrics().await;
    assert!(metrics.contains("billing_access_refused_total{caller=\"unknown\",reason=\"guesses\"}"), "{metrics}");
}

/// A few wrong tokens of others behind the same proxy shut no caller out.
#[tokio::test]
async fn a_new_caller_gets_in_beside_wrong_tokens_of_its_address() {
    let late = sha256("the-token-of-another");
    let service = with_callers(&format!("[{{name: late, roles: [gateway], token_sha256: ['{late}']}}]")).await;
    for guess in 0..40 {
        assert_eq!(check(&service, &format!("guess-{guess}")).await, (401, "10012".into()));
    }
    assert_eq!(check(&service, "the-token-of-another").await.0, 200);
}

#[tokio::test]
async fn the_metrics_of_cron_have_the_protection_of_those_of_the_server() {
    use tower::ServiceExt;
    let hash = sha256("the-token-of-a-reader");
    let callers = format!("[{{name: prometheus, roles: [metrics], token_sha256: ['{hash}']}}]");
    let metrics = std::sync::Arc::new(billing_service::metrics::Metrics::new().unwrap());
    let database = crate::harness::Database::create(Sqlite).await;
    for (protects, token, status) in [
        ("true", "", 401),
        ("true", "another-token-than-that", 401),
        ("true", "the-token-of-a-reader", 200),
        ("false", "", 200),
    ] {
        let config = database
            .config(&[("server.grpc.auth.callers", &callers), ("server.grpc.auth.protect_operations", protects)]);
        let app = billing_service::server::metrics_alone(metrics.clone(), &config.server);
        let mut request = http::Request::get("/metrics");
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let reply = app.oneshot(request.body(axum::body::Body::empty()).unwrap()).await.unwrap();
        assert_eq!(reply.status(), status, "{protects} {token}");
    }
}
