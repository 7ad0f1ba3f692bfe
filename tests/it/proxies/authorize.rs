//! The route that proxies ask, with the requests of any proxy.

use reqwest::Method;
use rstest::rstest;

use super::Answer;
use crate::harness::{Backend, MySql, Service, Sqlite};

const PATH: &str = "/internal/v1/billing/authorize";
const ASSET: &[(&str, &str)] = &[("x-billing-user-id", "u"), ("x-billing-service", "asset")];

async fn ask(service: &Service, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let url = format!("http://{}{path}", service.app.grpc_addr);
    let mut request = service.http.request(method, url).body(body.to_owned());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Answer::to(request).await
}

async fn get(service: &Service, headers: &[(&str, &str)]) -> Answer {
    ask(service, Method::GET, PATH, headers, "").await
}

#[tokio::test]
async fn the_method_the_path_and_the_body_of_the_client_mean_nothing() {
    let service = Service::start(Sqlite).await;
    let form = [ASSET, &[("content-type", "text/plain"), ("origin", "https://page.example")]].concat();
    for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE"] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        for path in [
            PATH,
            &format!("{PATH}/"),
            &format!("{PATH}/?a=b"),
            &format!("{PATH}/assets/1?user_id=other"),
            &format!("{PATH}//a%2Fb/%FF"),
        ] {
            let body = if method == Method::POST { "a=b" } else { "" };
            let answer = ask(&service, method.clone(), path, &form, body).await;
            assert_eq!((answer.status, answer.body.as_str()), (200, ""), "{method} {path}");
            assert!(answer.header("ratelimit").starts_with(r#""free-quota";r=1000;t="#), "{:?}", answer.headers);
            assert_eq!(answer.header("cache-control"), "no-store");
        }
    }
    let counted = r#"billing_requests_total{code="200",protocol="http",rpc="Authorize"} 40"#;
    let metrics = service.metrics().await;
    assert!(metrics.contains(counted), "{metrics}");
}

#[rstest]
#[tokio::test]
async fn a_refusal_has_the_status_that_fits_it(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, &[("billing.rate_limits.user.hour", "2")]).await;
    let with_count = [ASSET, &[("x-billing-count", "1001")]].concat();
    let poor = get(&service, &with_count).await;
    assert_eq!((poor.status, poor.code().as_str()), (402, "10001"), "{}", poor.body);
    assert_eq!(poor.header("x-billing-error-code"), "10001");
    assert_eq!(poor.header("x-billing-reason"), "insufficient balance");
    assert_eq!(get(&service, ASSET).await.status, 200);
    let fast = get(&service, ASSET).await;
    assert_eq!((fast.status, fast.code().as_str()), (429, "10002"), "{}", fast.body);
    assert!(fast.header("retry-after").parse::<u64>().unwrap() > 0);
    service.post("/internal/v1/billing/users/v/status", r#"{"status":"FROZEN","reason":"r"}"#).await;
    let frozen = get(&service, &[("x-billing-user-id", "v"), ("x-billing-service", "asset")]).await;
    assert_eq!((frozen.status, frozen.code().as_str()), (403, "10015"), "{}", frozen.body);
}

#[tokio::test]
async fn a_wrong_question_is_no_refusal_of_the_user() {
    let service = Service::start(Sqlite).await;
    for (headers, code, field) in [
        (vec![], "10009", "user_id"),
        (vec![("x-billing-user-id", "u")], "10009", "service_name"),
        (vec![("x-billing-user-id", ""), ("x-billing-service", "asset")], "10009", "user_id"),
        (vec![("x-billing-user-id", "u"), ("x-billing-service", "none")], "10008", "service_name"),
        ([ASSET, &[("x-billing-user-id", "v")]].concat(), "10009", "user_id"),
        ([ASSET, &[("x-billing-service", "payment")]].concat(), "10009", "service_name"),
        ([ASSET, &[("x-billing-count", "x")]].concat(), "10009", "count"),
        ([ASSET, &[("x-billing-api-key-id", "é")]].concat(), "10009", "api_key_id"),
    ] {
        let answer = get(&service, &headers).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, code), "{headers:?}: {}", answer.body);
        assert_eq!(answer.header("x-billing-error-code"), "", "{headers:?}");
        assert_eq!(answer.member("field"), field, "{headers:?}: {}", answer.body);
    }
    let misspelt = [ASSET, &[("x-billing-apikey", "k")]].concat();
    assert_eq!(get(&service, &misspelt).await.status, 200);
    let strict = Service::start_with(Sqlite, &[("server.http.unknown_fields", "reject")]).await;
    assert_eq!(get(&strict, &misspelt).await.status, 400);
    assert_eq!(get(&strict, ASSET).await.status, 200);
}
