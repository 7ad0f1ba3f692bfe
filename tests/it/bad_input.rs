//! Bad input gets an error that names the field, over both protocols, and changes nothing.

use billing_service::service::proto::{
    AdjustBalanceRequest, CheckQuotaRequest, DeductQuotaRequest, GetAccountRequest, GetUsageRequest,
    InitializeUserRequest, ListRecordsRequest, Usage,
};
use rstest::rstest;
use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::harness::{Backend, MySql, Service, Sqlite, charge, code_of};

fn assert_names(status: Status, code: &str, field: &str) {
    assert_eq!(code_of(&status), (Code::InvalidArgument, code.into()), "{field}: {status:?}");
    assert!(status.message().starts_with(&format!("{field}:")), "{field}: {}", status.message());
}

/// A service with the account of `u` and one charge. [`assert_unchanged`] checks that there is no more.
async fn with_one_charge(on: Backend) -> Service {
    let service = Service::start(on).await;
    service.adjust("u", 100.0).await;
    service.deduct(charge("u", "asset", 1001)).await;
    service
}

async fn assert_unchanged(service: Service) {
    assert_eq!(service.state("u").await, (99.95, [0, 0, 1000]));
    let report = service.database.audit().await;
    assert_eq!((report.users, report.difference_count), (1, 0), "{:#?}", report.differences);
}

#[rstest]
#[tokio::test]
async fn a_bad_charge_is_refused_by_field(#[values(MySql, Sqlite)] on: Backend) {
    let service = with_one_charge(on).await;
    let good = || charge("u", "asset", 1);
    let usage = |input_tokens, output_tokens, cached_input_tokens| {
        Some(Usage { input_tokens, output_tokens, cached_input_tokens, ..Default::default() })
    };
    let long = |length: usize| "x".repeat(length);
    let cases = [
        (DeductQuotaRequest { user_id: String::new(), ..good() }, "10009", "user_id"),
        (DeductQuotaRequest { user_id: long(37), ..good() }, "10009", "user_id"),
        (DeductQuotaRequest { user_id: "a b".into(), ..good() }, "10009", "user_id"),
        (DeductQuotaRequest { user_id: "ü".into(), ..good() }, "10009", "user_id"),
        (DeductQuotaRequest { service_name: String::new(), ..good() }, "10009", "service_name"),
        (DeductQuotaRequest { service_name: "Asset".into(), ..good() }, "10008", "service_name"),
        (DeductQuotaRequest { service_name: long(100_000), ..good() }, "10008", "service_name"),
        (DeductQuotaRequest { count: 0, ..good() }, "10009", "count"),
        (DeductQuotaRequest { count: -1, ..good() }, "10009", "count"),
        (DeductQuotaRequest { count: 1_000_000_001, ..good() }, "10009", "count"),
        (DeductQuotaRequest { cost: -0.01, ..good() }, "10009", "cost"),
        (DeductQuotaRequest { cost: f64::NAN, ..good() }, "10009", "cost"),
        (DeductQuotaRequest { cost: f64::INFINITY, ..good() }, "10009", "cost"),
        (DeductQuotaRequest { cost: 0.0000001, ..good() }, "10009", "cost"),
        (DeductQuotaRequest { cost: 1e9, ..good() }, "10009", "cost"),
        (DeductQuotaRequest { trace_id: long(129), ..good() }, "10009", "trace_id"),
        (DeductQuotaRequest { trace_id: "a\nb".into(), ..good() }, "10009", "trace_id"),
        (DeductQuotaRequest { api_key_id: long(129), ..good() }, "10009", "api_key_id"),
        (DeductQuotaRequest { api_key_id: "é".into(), ..good() }, "10009", "api_key_id"),
        (DeductQuotaRequest { model: "é".into(), ..good() }, "10009", "model"),
        (DeductQuotaRequest { usage: usage(-1, 0, 0), ..good() }, "10009", "usage.input_tokens"),
        (DeductQuotaRequest { usage: usage(0, -1, 0), ..good() }, "10009", "usage.output_tokens"),
        (DeductQuotaRequest { usage: usage(1, 0, 2), ..good() }, "10009", "usage.cached_input_tokens"),
    ];
    for (request, code, field) in cases {
        assert_names(service.try_deduct(request).await.unwrap_err(), code, field);
    }
    assert_unchanged(service).await;
}

#[rstest]
#[tokio::test]
async fn other_bad_requests_are_refused_by_field(#[values(MySql, Sqlite)] on: Backend) {
    let service = with_one_charge(on).await;
    let (public, internal) = (&service.public, &service.internal);

    let check =
        || CheckQuotaRequest { user_id: "u".into(), service_name: "asset".into(), count: 1, ..Default::default() };
    for (request, code, field) in [
        (CheckQuotaRequest { user_id: "é".into(), ..check() }, "10009", "user_id"),
        (CheckQuotaRequest { service_name: "none".into(), ..check() }, "10008", "service_name"),
        (CheckQuotaRequest { count: 0, ..check() }, "10009", "count"),
        (CheckQuotaRequest { estimated_cost: -1.0, ..check() }, "10009", "estimated_cost"),
        (CheckQuotaRequest { estimated_input_tokens: -1, ..check() }, "10009", "estimated_input_tokens"),
        (CheckQuotaRequest { model: "é".into(), ..check() }, "10009", "model"),
    ] {
        assert_names(internal.clone().check_quota(request).await.unwrap_err(), code, field);
    }

    let adjust = || AdjustBalanceRequest {
        user_id: "u".into(),
        amount: 1.0,
        reason: "r".into(),
        adjustment_id: "id".into(),
        operator: String::new(),
        allow_negative: false,
    };
    for (request, field) in [
        (AdjustBalanceRequest { user_id: String::new(), ..adjust() }, "user_id"),
        (AdjustBalanceRequest { amount: 0.0, ..adjust() }, "amount"),
        (AdjustBalanceRequest { amount: f64::NAN, ..adjust() }, "amount"),
        (AdjustBalanceRequest { amount: 0.0000001, ..adjust() }, "amount"),
        (AdjustBalanceRequest { reason: String::new(), ..adjust() }, "reason"),
        (AdjustBalanceRequest { reason: "  ".into(), ..adjust() }, "reason"),
        (AdjustBalanceRequest { reason: "é".repeat(256), ..adjust() }, "reason"),
        (AdjustBalanceRequest { reason: "a\u{0}b".into(), ..adjust() }, "reason"),
        (AdjustBalanceRequest { adjustment_id: String::new(), ..adjust() }, "adjustment_id"),
        // Those of credited payments, which a statement shows in a line of their own.
        (AdjustBalanceRequest { adjustment_id: "unapplied payment p".into(), ..adjust() }, "adjustment_id"),
        (AdjustBalanceRequest { operator: "o".repeat(65), ..adjust() }, "operator"),
    ] {
        assert_names(internal.clone().adjust_balance(request).await.unwrap_err(), "10009", field);
    }
    let user_id = "a/b".to_owned();
    let refused = internal.clone().initialize_user(InitializeUserRequest { user_id: user_id.clone() }).await;
    assert_names(refused.unwrap_err(), "10009", "user_id");
    assert_names(public.clone().get_account(GetAccountRequest { user_id }).await.unwrap_err(), "10009", "user_id");

    let list = || ListRecordsRequest { user_id: "u".into(), ..Default::default() };
    for (request, code, field) in [
        (ListRecordsRequest { page: -1, ..list() }, "10009", "page"),
        (ListRecordsRequest { page: 502, ..list() }, "10009", "page"),
        (ListRecordsRequest { page_size: -1, ..list() }, "10009", "page_size"),
        (ListRecordsRequest { page_size: 101, ..list() }, "10009", "page_size"),
        (ListRecordsRequest { r#type: 5, ..list() }, "10009", "type"),
        (ListRecordsRequest { service_name: "none".into(), ..list() }, "10008", "service_name"),
        (ListRecordsRequest { from: "yesterday".into(), ..list() }, "10009", "from"),
        (ListRecordsRequest { to: "2026-13-01".into(), ..list() }, "10009", "to"),
        (ListRecordsRequest { from: "2026-02-02".into(), to: "2026-02-01".into(), ..list() }, "10009", "from"),
        (ListRecordsRequest { page_token: "forged".into(), ..list() }, "10009", "page_token"),
    ] {
        assert_names(public.clone().list_records(request).await.unwrap_err(), code, field);
    }
    let usage = || GetUsageRequest { user_id: "u".into(), ..Default::default() };
    for (request, code, field) in [
        (GetUsageRequest { from: "2024-01-01".into(), to: "2025-01-01".into(), ..usage() }, "10009", "from"),
        (GetUsageRequest { service_name: "none".into(), ..usage() }, "10008", "service_name"),
    ] {
        assert_names(public.clone().get_usage(request).await.unwrap_err(), code, field);
    }
    assert_unchanged(service).await;
}

/// A control character, and the characters that break a line or change its direction.
const DECEPTIVE: &str = "\u{0}\n\u{7f}\u{85}\u{61c}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}";

#[tokio::test]
async fn a_deceptive_text_is_refused_by_field() {
    let service = with_one_charge(Sqlite).await;
    let adjust = || AdjustBalanceRequest {
        user_id: "u".into(),
        amount: 1.0,
        reason: "r".into(),
        adjustment_id: "id".into(),
        operator: "o".into(),
        allow_negative: false,
    };
    let deduct = || DeductQuotaRequest { trace_id: "t".into(), ..charge("u", "asset", 1) };
    for letter in DECEPTIVE.chars() {
        let text = format!("a{letter}b");
        for (request, field) in [
            (AdjustBalanceRequest { user_id: text.clone(), ..adjust() }, "user_id"),
            (AdjustBalanceRequest { reason: text.clone(), ..adjust() }, "reason"),
            (AdjustBalanceRequest { operator: text.clone(), ..adjust() }, "operator"),
            (AdjustBalanceRequest { adjustment_id: text.clone(), ..adjust() }, "adjustment_id"),
        ] {
            assert_names(service.internal.clone().adjust_balance(request).await.unwrap_err(), "10009", field);
        }
        for (request, field) in [
            (DeductQuotaRequest { trace_id: text.clone(), ..deduct() }, "trace_id"),
            (DeductQuotaRequest { api_key_id: text.clone(), ..deduct() }, "api_key_id"),
            (DeductQuotaRequest { model: text.clone(), ..deduct() }, "model"),
        ] {
            assert_names(service.try_deduct(request).await.unwrap_err(), "10009", field);
        }
    }
    assert_unchanged(service).await;
    let service = Service::start(Sqlite).await;
    let plain = AdjustBalanceRequest { reason: "שלום, 退款 👍".into(), ..adjust() };
    service.internal.clone().adjust_balance(plain).await.unwrap();
}

#[rstest]
#[tokio::test]
async fn bad_json_is_refused_by_field(#[values(MySql, Sqlite)] on: Backend) {
    let service = with_one_charge(on).await;
    let body = |field: &str, value: Value| {
        let mut body = json!({"user_id": "u", "service_name": "asset", "count": 1});
        body[field] = value;
        body.to_string()
    };
    for (body, code, field) in [
        (body("user_id", json!("a b")), "10009", "user_id"),
        (body("user_id", json!(7)), "10009", "user_id"),
        (body("service_name", json!("nope")), "10008", "service_name"),
        (body("count", json!(0)), "10009", "count"),
        (body("count", json!("many")), "10009", "count"),
        (body("count", json!(1.5)), "10009", "count"),
        (body("count", json!(3_000_000_000u32)), "10009", "count"),
        (body("count", json!([1])), "10009", "count"),
        (body("cost", json!("NaN")), "10009", "cost"),
        (body("cost", json!("-Infinity")), "10009", "cost"),
        (body("cost", json!(-1)), "10009", "cost"),
        (body("cost", json!(0.1234567)), "10009", "cost"),
        (body("cost", json!(true)), "10009", "cost"),
        (body("trace_id", json!("x".repeat(129))), "10009", "trace_id"),
        (body("usage", json!({"input_tokens": -5})), "10009", "usage.input_tokens"),
        (body("usage", json!({"inputTokens": "lots"})), "10009", "usage.input_tokens"),
        (body("userId", json!("v")), "10009", "user_id"),
        (body("count", json!("+1")), "10009", "count"),
        (body("count", json!("01")), "10009", "count"),
        (body("count", json!(" 1")), "10009", "count"),
        (body("cost", json!("+1")), "10009", "cost"),
        ("{\"user_id\": \"u\"".into(), "10009", "body"),
        ("[1, 2]".into(), "10009", "body"),
        ("\u{1}".into(), "10009", "body"),
        (String::new(), "10009", "user_id"),
        (format!("{{\"user_id\":\"{}\"}}", "x".repeat(2_000_000)), "10009", "body"),
    ] {
        let (status, reply) = service.post("/internal/v1/billing/deduct", body.clone()).await;
        let shown = &body[..body.len().min(120)];
        assert_eq!((status, reply["code"].as_u64()), (400, Some(400)), "{shown}: {reply}");
        assert_eq!(reply["metadata"], json!({"error_code": code, "field": field}), "{shown}: {reply}");
    }
    for (path, field) in [
        ("/api/v1/billing/account", "user_id"),
        ("/api/v1/billing/account?user_id=", "user_id"),
        ("/api/v1/billing/account?user_id=a%20b", "user_id"),
        ("/api/v1/billing/account?user_id=u&user_id=v", "user_id"),
        ("/api/v1/billing/account/a%2Fb", "user_id"),
        ("/api/v1/billing/account/u?user_id=v", "user_id"),
        ("/api/v1/billing/account/%FF", "path"),
        ("/api/v1/billing/account?user_id=u&userId=v", "user_id"),
        ("/api/v1/billing/records?user_id=u&page=one", "page"),
        ("/api/v1/billing/records?user_id=u&page=%2B1", "page"),
        ("/api/v1/billing/records?user_id=u&pageSize=01", "pageSize"),
        ("/api/v1/billing/records?user_id=u&page_size=1000", "page_size"),
        ("/api/v1/billing/records?user_id=u&type=9", "type"),
        ("/api/v1/billing/usage?user_id=u&from=tomorrow", "from"),
    ] {
        let (status, reply) = service.get(path).await;
        assert_eq!((status, &reply["metadata"]["field"]), (400, &json!(field)), "{path}: {reply}");
        assert_eq!(reply["reason"], "INVALID_ARGUMENT");
    }
    assert_unchanged(service).await;
}

#[tokio::test]
async fn a_batch_with_a_missing_item_or_one_key_for_all_charges_nothing() {
    let service = Service::start(Sqlite).await;
    let path = "/internal/v1/billing/deduct/batch";
    let item = json!({"user_id": "u", "service_name": "asset", "count": 1});
    let (status, reply) = service.post(path, json!({"items": [item, null, item]}).to_string()).await;
    assert_eq!((status, &reply["metadata"]["field"]), (400, &json!("items[1]")), "{reply}");
    let url = format!("http://{}{path}", service.app.grpc_addr);
    let request = service.http.post(url).header("Idempotency-Key", "k").body(json!({"items": [item]}).to_string());
    let reply: Value = request.send().await.unwrap().json().await.unwrap();
    assert_eq!(reply["metadata"], json!({"error_code": "10009", "field": "items"}));
    assert_eq!(service.state("u").await.1[2], 0);
}

/// Bytes that are not a message, and a message that is too large.
#[tokio::test]
async fn a_grpc_message_that_cannot_be_decoded_gets_the_error_of_the_contract() {
    let service = Service::start(Sqlite).await;
    let framed = |message: &[u8]| {
        let length = u32::try_from(message.len()).unwrap();
        [&[0], length.to_be_bytes().as_slice(), message].concat()
    };
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    for message in [vec![0x0a, 0x02, 0xff, 0xfe], vec![0x0a; 2_000_000]] {
        let url = format!("http://{}/billing.v1.BillingService/GetAccount", service.app.grpc_addr);
        let request = client.post(url).header("content-type", "application/grpc").header("te", "trailers");
        let response = request.body(framed(&message)).send().await.unwrap();
        let status = Status::from_header_map(response.headers()).unwrap();
        assert_eq!(code_of(&status), (Code::InvalidArgument, "10009".into()), "{status:?}");
        assert!(status.message().starts_with("body:"), "{status:?}");
    }
}
