//! Members of JSON bodies and query parameters.

use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{Backend, MySql, Service, Sqlite};

const DEDUCT: &str = "/internal/v1/billing/deduct";
const ADJUST: &str = "/internal/v1/billing/adjust";

#[rstest]
#[tokio::test]
async fn a_duplicate_member_is_refused_by_name_and_charges_nothing(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let usage = r#"{"input_tokens":1,"inputTokens":1}"#;
    for (path, body, field) in [
        (ADJUST, r#"{"user_id":"u","amount":1,"amount":100,"reason":"r","adjustment_id":"a"}"#.to_owned(), "amount"),
        (ADJUST, r#"{"user_id":"u","userId":"u","amount":1,"reason":"r","adjustment_id":"a"}"#.into(), "user_id"),
        (ADJUST, r#"{"user_id":"u","amount":1,"reason":"r","adjustmentId":"a","adjustment_id":"a"}"#.into(), "adjustment_id"),
        (DEDUCT, r#"{"user_id":"u","service_name":"asset","count":1,"count":2}"#.into(), "count"),
        (DEDUCT, format!(r#"{{"user_id":"u","service_name":"asset","count":1,"usage":{usage}}}"#), "usage.input_tokens"),
        (
            "/internal/v1/billing/deduct/batch",
            r#"{"items":[{"user_id":"u","service_name":"asset","count":1},{"user_id":"u","service_name":"asset","count":1,"count":9}]}"#.into(),
            "items[1].count",
        ),
    ] {
        let (status, reply) = service.post(path, body.clone()).await;
        assert_eq!((status, &reply["metadata"]), (400, &json!({"error_code": "10009", "field": field})), "{body}: {reply}");
    }
    assert_eq!(service.state("u").await, (0.0, [0, 0, 0]));
}

#[rstest]
#[tokio::test]
async fn integers_in_strings_have_the_rules_of_json(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    for (count, used) in [("\"1e1\"", 10), ("\"1.0\"", 11), ("1e1", 21), ("\"100e-1\"", 31), ("1.0", 32)] {
        let body = format!(r#"{{"user_id":"u","service_name":"asset","count":{count}}}"#);
        let (status, reply) = service.post(DEDUCT, body).await;
        assert_eq!(status, 200, "{count}: {reply}");
        assert_eq!(service.state("u").await.1[2], used, "{count}");
    }
    let (status, page) = service.get("/api/v1/billing/records?user_id=u&page_size=1e0&page=2.0").await;
    assert_eq!((status, page["records"].as_array().unwrap().len()), (200, 1), "{page}");
}

/// The metric of unknown fields for a route.
async fn counted(service: &Service, route: &str) -> u64 {
    let line = format!("billing_unknown_fields_total{{route=\"{route}\"}} ");
    let text = service.metrics().await;
    text.lines().find_map(|text| text.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
}

fn misspelt() -> String {
    json!({"user_id": "u", "service_name": "asset", "count": 1, "traceID": "t", "usage": {"tokens": 5}}).to_string()
}

#[rstest]
#[case("ignore", 0)]
#[case("warn", 2)]
#[tokio::test]
async fn unknown_fields_are_accepted_and_counted_by_route(#[case] policy: &str, #[case] counts: u64) {
    let service = Service::start_with(Sqlite, &[("server.http.unknown_fields", policy)]).await;
    assert_eq!(service.post(DEDUCT, misspelt()).await.0, 200);
    let (status, month) = service.get("/api/v1/billing/stats/month?user_id=u&month=2026-10").await;
    assert_eq!((status, &month["total_count"]), (200, &json!(1)));
    let account = service.get("/api/v1/billing/account/u?verbose=1").await;
    assert_eq!(account.0, 200);
    let half = counts / 2;
    assert_eq!(counted(&service, DEDUCT).await, counts);
    assert_eq!(counted(&service, "/api/v1/billing/stats/month").await, half);
    assert_eq!(counted(&service, "/api/v1/billing/account/{user_id}").await, half);
}

#[rstest]
#[tokio::test]
async fn unknown_fields_can_be_refused_by_name(#[values(MySql, Sqlite)] on: Backend) {
    let reject = ("server.http.unknown_fields", "reject");
    let service = Service::start_with(on, &[reject, ("server.http.internal_routes", "true")]).await;
    let item = json!({"user_id": "u", "service_name": "asset", "count": 1});
    let mut wrong = item.clone();
    wrong["Count"] = json!(2);
    for (path, body, field) in [
        (DEDUCT, misspelt(), "traceID"),
        (DEDUCT, json!({"user_id": "u", "usage": {"tokens": 5}}).to_string(), "usage.tokens"),
        ("/internal/v1/billing/deduct/batch", json!({"items": [item, wrong]}).to_string(), "items[1].Count"),
        ("/internal/v1/billing/deduct?trace_id=t", item.to_string(), "trace_id"),
    ] {
        for addr in [service.app.grpc_addr, service.app.http_addr] {
            let sent = service.http.post(format!("http://{addr}{path}")).body(body.clone()).send().await.unwrap();
            let (status, reply) = (sent.status(), sent.json::<Value>().await.unwrap());
            assert_eq!((status.as_u16(), &reply["metadata"]["field"]), (400, &json!(field)), "{path}: {reply}");
        }
    }
    for (path, field) in [
        ("/api/v1/billing/stats/month?user_id=u&month=2026-10", "month"),
        ("/api/v1/billing/account/u?_=1", "_"),
        ("/api/v1/billing/records.csv?user_id=u&kind=1", "kind"),
    ] {
        let (status, reply) = service.get(path).await;
        assert_eq!((status, &reply["metadata"]["field"]), (400, &json!(field)), "{path}: {reply}");
    }
    assert_eq!(service.state("u").await.1, [0, 0, 0]);
    assert_eq!(service.post(DEDUCT, item.to_string()).await.0, 200);
}
