//! Pages of other origins.

use super::outcome;
use crate::harness::{Service, Sqlite};

const RECHARGE: &str = "/api/v1/billing/recharge";

async fn post(service: &Service, headers: &[(&str, &str)]) -> (u16, String) {
    let mut request = service.http.post(format!("http://{}{RECHARGE}", service.app.http_addr)).body("{}");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    outcome(request.send().await.unwrap()).await
}

#[tokio::test]
async fn a_page_of_another_origin_changes_nothing() {
    let service = Service::start_with(Sqlite, &[("server.http.cors.origins", "[https://app.example.com]")]).await;
    let own = format!("http://{}", service.app.http_addr);
    // The request is admitted, and then refused for its content.
    let admitted = (400, "10009".to_owned());
    assert_eq!(post(&service, &[]).await, admitted);
    assert_eq!(post(&service, &[("origin", &own)]).await, admitted);
    assert_eq!(post(&service, &[("origin", "https://app.example.com")]).await, admitted);
    for origin in ["null", "https://evil.example", "https://app.example.com.evil.example", "http://app.example.com", ""]
    {
        assert_eq!(post(&service, &[("origin", origin)]).await, (403, "10013".into()), "{origin}");
    }
    // The browser hides the reply of a read from such a page. Tools send no origin at all.
    let url = format!("http://{}/api/v1/billing/account/u", service.app.http_addr);
    let read = service.http.get(url).header("origin", "https://evil.example").send().await.unwrap();
    assert_eq!(read.status(), 200);
    assert!(!read.headers().contains_key("access-control-allow-origin"));
}

/// A page can send a body without a type without a preflight request.
#[tokio::test]
async fn a_body_must_say_that_it_is_json() {
    let service = Service::start(Sqlite).await;
    for (addr, path) in [(service.app.http_addr, RECHARGE), (service.app.grpc_addr, "/internal/v1/billing/check")] {
        let url = format!("http://{addr}{path}");
        let plain = reqwest::Client::new();
        assert_eq!(plain.post(&url).body("{}").send().await.unwrap().status(), 415, "{url}");
        assert_eq!(plain.post(&url).send().await.unwrap().status(), 415, "{url}");
        assert_eq!(service.http.post(&url).body("{}").send().await.unwrap().status(), 400, "{url}");
    }
}

#[tokio::test]
async fn preflight_requests_of_the_configured_origins_are_answered() {
    let service = Service::start_with(Sqlite, &[("server.http.cors.origins", "[https://app.example.com]")]).await;
    let preflight = async |origin: &str| {
        let url = format!("http://{}{RECHARGE}", service.app.http_addr);
        let request = service.http.request(reqwest::Method::OPTIONS, url).header("origin", origin);
        let request = request.header("access-control-request-method", "POST");
        let request = request.header("access-control-request-headers", "authorization,content-type,idempotency-key");
        request.send().await.unwrap()
    };
    let allowed = preflight("https://app.example.com").await;
    assert_eq!(allowed.status(), 200);
    assert_eq!(allowed.headers()["access-control-allow-origin"], "https://app.example.com");
    let headers = allowed.headers()["access-control-allow-headers"].to_str().unwrap().to_owned();
    for name in ["authorization", "content-type", "idempotency-key"] {
        assert!(headers.contains(name), "{headers}");
    }
    assert!(!allowed.headers().contains_key("access-control-allow-credentials"));
    let other = preflight("https://evil.example").await;
    assert!(!other.headers().contains_key("access-control-allow-origin"));
    let url = format!("http://{}/api/v1/billing/account/u", service.app.http_addr);
    let read = service.http.get(url).header("origin", "https://app.example.com").send().await.unwrap();
    assert_eq!(read.headers()["access-control-allow-origin"], "https://app.example.com");
    assert_eq!(read.headers()["access-control-expose-headers"], "x-request-id,retry-after");
}

/// DNS rebinding: an attacker's host name resolves to an address in the network of the victim.
#[tokio::test]
async fn a_request_for_an_unknown_host_is_refused() {
    let service = Service::start_with(Sqlite, &[("server.http.hosts", "[billing.example.com, 127.0.0.1]")]).await;
    let get = async |path: &str, host: Option<&str>| {
        let mut request = service.http.get(format!("http://{}{path}", service.app.http_addr));
        if let Some(host) = host {
            request = request.header("host", host);
        }
        outcome(request.send().await.unwrap()).await
    };
    let account = "/api/v1/billing/account/u";
    for host in [None, Some("billing.example.com"), Some("Billing.Example.com:8107"), Some("billing.example.com:443")] {
        assert_eq!(get(account, host).await.0, 200, "{host:?}");
    }
    for host in ["evil.example", "billing.example.com.evil.example", "localhost", "[::1]:80"] {
        assert_eq!(get(account, Some(host)).await, (403, "10013".into()), "{host}");
    }
    // Probes use the address as the host.
    assert_eq!(get("/health", Some("10.1.2.3:8107")).await.0, 200);
}
