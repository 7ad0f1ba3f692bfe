//! The REST API: names, numbers, styles and routes.

use billing_service::service::routes::rest_rpc;
use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{Backend, MySql, Service, Sqlite, contract::rpcs};

#[rstest]
#[tokio::test]
async fn replies_have_all_fields_with_snake_case_names(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let body = r#"{"user_id":"new_user_001","service_name":"passport","count":1}"#;
    let url = format!("http://{}/internal/v1/billing/check", service.app.grpc_addr);
    let text = service.http.post(url).body(body).send().await.unwrap().text().await.unwrap();
    assert_eq!(
        text,
        r#"{"allowed":true,"reason":"free","free_remaining":10000,"balance":0.0,"estimated_cost":0.0,"error_code":"","free_remaining_units":"10000"}"#
    );
    let (_, account) = service.get("/api/v1/billing/account?user_id=new_user_001").await;
    assert_eq!((&account["balance"], &account["held"]), (&json!(0.0), &json!(0.0)));
    assert_eq!(account["quotas"][0]["used_quota"], 0);
    assert_eq!(service.get("/api/v1/billing/account/new_user_001").await.1, account);
    let (_, summary) = service.get("/api/v1/billing/stats/summary?userId=new_user_001").await;
    let empty = json!({
        "user_id": "new_user_001", "total_count": 0, "total_cost": 0.0, "services": [], "total_units": "0",
        "refunded_count": 0, "refunded_cost": 0.0, "refunded_units": "0",
    });
    assert_eq!(summary, empty);
}

#[rstest]
#[tokio::test]
async fn requests_accept_both_cases_and_numbers_as_strings(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    for (trace, body) in [
        ("a", json!({"user_id": "u", "service_name": "asset", "count": 2, "trace_id": "a", "cost": 0.5})),
        ("a", json!({"userId": "u", "serviceName": "asset", "count": "2", "traceId": "a", "cost": "0.5"})),
        ("a", json!({"user_id": "u", "serviceName": "asset", "count": 2.0, "trace_id": "a", "cost": "5e-1"})),
        ("b", json!({"user_id": "u", "service_name": "asset", "count": 1, "traceId": "b", "usage": null})),
        ("b", json!({"user_id": "u", "service_name": "asset", "count": 1, "traceId": "b", "unheard_of": 1})),
        ("c", json!({"user_id": "u", "service_name": "asset", "count": 1, "trace_id": "c", "model": "m"})),
    ] {
        let (status, reply) = service.post("/internal/v1/billing/deduct", body.to_string()).await;
        assert_eq!(status, 200, "{trace}: {reply}");
    }
    assert_eq!(service.state("u").await, (0.0, [0, 0, 4]));
    let usage = json!({"inputTokens": "7", "output_tokens": 5, "cachedInputTokens": 1});
    let body = json!({"userId": "u", "serviceName": "asset", "count": 1, "usage": usage});
    assert_eq!(service.post("/internal/v1/billing/deduct", body.to_string()).await.0, 200);
    let (_, records) = service.get("/api/v1/billing/records?userId=u&pageSize=1").await;
    let record = &records["records"][0];
    assert_eq!((&record["input_tokens"], &record["output_tokens"]), (&json!(7), &json!(5)));
    assert!(record["created_at"].as_str().unwrap().ends_with('Z'), "{record}");
}

#[rstest]
#[tokio::test]
async fn headers_may_carry_missing_ids(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let send = |path: &'static str, header: &'static str, id: &'static str, body: Value| {
        let url = format!("http://{}{path}", service.app.grpc_addr);
        let request = service.http.post(url).header(header, id).body(body.to_string());
        async move { request.send().await.unwrap().json::<Value>().await.unwrap() }
    };
    let deduct = "/internal/v1/billing/deduct";
    let body = || json!({"user_id": "u", "service_name": "asset", "count": 1});
    assert_eq!(send(deduct, "Idempotency-Key", "one", body()).await["replayed"], false);
    assert_eq!(send(deduct, "x-trace-id", "one", body()).await["replayed"], true);
    let with_field = json!({"user_id": "u", "service_name": "asset", "count": 1, "traceId": "two"});
    assert_eq!(send(deduct, "x-trace-id", "one", with_field).await["replayed"], false);
    let adjust = json!({"user_id": "u", "amount": 3, "reason": "r"});
    let first = send("/internal/v1/billing/adjust", "Idempotency-Key", "adjust-1", adjust.clone()).await;
    assert_eq!((&first["adjustment_id"], &first["replayed"]), (&json!("adjust-1"), &json!(false)));
    assert_eq!(send("/internal/v1/billing/adjust", "Idempotency-Key", "adjust-1", adjust).await["replayed"], true);
    assert_eq!(service.state("u").await, (3.0, [0, 0, 2]));
}

#[rstest]
#[tokio::test]
async fn errors_have_the_bodies_of_the_contract(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let body = json!({"user_id": "u", "service_name": "asset", "count": 1_000_000});
    let (status, reply) = service.post("/internal/v1/billing/deduct", body.to_string()).await;
    assert_eq!(status, 400);
    assert_eq!(
        reply,
        json!({
            "code": 400,
            "reason": "INSUFFICIENT_BALANCE",
            "message": "balance is not enough: 49950 needed, 0 available",
            "metadata": {"error_code": "10001"},
        })
    );
    let url = format!("http://{}/api/v1/billing/recharge", service.app.http_addr);
    let recharge = r#"{"user_id":"u","amount":5,"payment_method":"alipay"}"#;
    let recharge = service.http.post(url).body(recharge).send().await.unwrap();
    assert_eq!(recharge.status(), 503);
    assert_eq!(recharge.json::<Value>().await.unwrap()["reason"], "PAYMENT_UNAVAILABLE");
    assert_eq!(service.get("/nowhere").await.0, 404);
    let (status, reply) = service.post("/health", "").await;
    assert_eq!((status, &reply["reason"]), (405, &json!("METHOD_NOT_ALLOWED")));
}

#[rstest]
#[tokio::test]
async fn the_devshare_style_serves_the_platforms_front_end(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, &[("server.http.style", "devshare")]).await;
    service.clock.set("2026-11-20T04:00:00Z");
    let (status, reply) = service.get("/api/v1/billing/account?userId=u").await;
    assert_eq!((status, &reply["success"]), (200, &json!(true)));
    assert_eq!(reply["data"]["userId"], "u");
    assert_eq!(
        reply["data"]["quotas"][0],
        json!({
            "serviceName": "asset", "totalQuota": 1000, "usedQuota": 0,
            "heldQuota": 0, "totalUnits": "1000", "usedUnits": "0", "heldUnits": "0",
            "resetMonth": "2026-11",
        })
    );
    let check = r#"{"user_id":"u","service_name":"asset","count":1}"#;
    let (_, plain) = service.post("/internal/v1/billing/check", check).await;
    assert_eq!(plain["allowed"], true, "the internal port keeps the plain style: {plain}");
    let (status, reply) = service.get("/api/v1/billing/account?userId=").await;
    assert_eq!(status, 400);
    assert_eq!(reply, json!({"success": false, "errorCode": "10009", "errorMessage": "user_id: is required"}));
}

#[rstest]
#[tokio::test]
async fn internal_routes_are_not_on_the_public_port_by_default(#[values(MySql, Sqlite)] on: Backend) {
    let body = r#"{"user_id":"u","service_name":"asset","count":1}"#;
    for (opened, expected) in [("false", 404), ("true", 200)] {
        let service = Service::start_with(on, &[("server.http.internal_routes", opened)]).await;
        let url = format!("http://{}/internal/v1/billing/check", service.app.http_addr);
        assert_eq!(service.http.post(url).body(body).send().await.unwrap().status(), expected);
    }
}

#[rstest]
#[tokio::test]
async fn each_route_answers_its_own_rpc(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.clock.set("2026-11-19T04:00:00Z");
    service.deduct(crate::harness::charge("u", "asset", 5)).await;
    service.clock.set("2026-11-20T04:00:00Z");
    service.deduct(crate::harness::charge("u", "asset", 2)).await;
    let figure = |path: &'static str| {
        let path = format!("/api/v1/billing/{path}");
        let service = &service;
        async move { service.get(&path).await.1 }
    };
    let today = figure("stats/today?user_id=u&service_name=asset").await;
    assert_eq!((&today["period"], &today["total_count"]), (&json!("today"), &json!(2)));
    let month = figure("stats/month?user_id=u").await;
    assert_eq!((&month["period"], &month["total_count"]), (&json!("month"), &json!(7)));
    let summary = figure("stats/summary?user_id=u").await;
    assert_eq!(summary["services"][0]["free_count"], 7);
    let usage = figure("usage?user_id=u&from=2026-11-19&to=2026-11-20&service_name=asset").await;
    assert_eq!(usage["series"][0]["days"][0]["total_count"], 5);
    let records = figure("records?user_id=u&page=2&page_size=1").await;
    assert_eq!((&records["records"][0]["count"], &records["total"]), (&json!(5), &json!(2)));
    let (_, opened) = service.post("/internal/v1/billing/users", r#"{"user_id":"v"}"#).await;
    assert_eq!(opened, json!({"success": true, "created": true}));
}

#[test]
fn every_route_has_the_name_of_its_rpc_in_logs() {
    for rpc in rpcs() {
        for (method, path) in rpc.routes {
            assert_eq!(rest_rpc(&method, &path), Some(rpc.name.as_str()), "{method} {path}");
        }
    }
}

/// Reads the google.api.http rules in the descriptors, and calls each route.
#[tokio::test]
async fn every_http_rule_of_the_descriptors_has_a_route() {
    let service = Service::start(Sqlite).await;
    let rpcs = rpcs();
    assert!(rpcs.iter().all(|rpc| rpc.routes.is_empty() == rpc.is_client_streaming));
    for (method, path) in rpcs.into_iter().flat_map(|rpc| rpc.routes) {
        let host = if path.starts_with("/internal/") { service.app.grpc_addr } else { service.app.http_addr };
        let url = format!("http://{host}{}", path.replace("{user_id}", "u").replace("{trace_id}", "t"));
        let response = service.http.request(method.clone(), url).send().await.unwrap();
        let (status, body) = (response.status().as_u16(), response.json::<Value>().await.unwrap_or_default());
        // A route may return "not found". A missing route returns an error without a code.
        let routed = status != 405 && (status != 404 || body["metadata"]["error_code"].is_string());
        assert!(routed, "{method} {path}: {status} {body}");
    }
}
