//! The pictures of docs/console.md: of the demo user at a fixed time, so that the same sources make the same picture.

use billing_service::service::proto::{PutPriceVersionRequest, PutWebhookRequest};

use super::demo;
use crate::{
    harness::{Service, browser::Browser, wait::until},
    webhooks::{SETTINGS, put_request},
};

/// Three webhooks, and attempts at one of them with ids and times that are always the same.
async fn with_webhooks(service: &Service) {
    for (id, types, active) in [
        ("crm", &["account.status", "balance.low"][..], true),
        ("data-warehouse", &[], false),
        ("shop", &["balance.exhausted", "balance.low", "recharge.succeeded"], true),
    ] {
        let types = types.iter().map(|kind| (*kind).to_owned()).collect();
        let put = put_request(id, &format!("https://{id}.example/billing"));
        let put = PutWebhookRequest { types, active: Some(active), ..put };
        service.internal.clone().put_webhook(put).await.unwrap();
    }
    let at = demo::end().timestamp_micros();
    // Whether it was accepted, the status and the failure.
    let attempt = |number: i64, kind: &str, took_ms: i64, outcome: &str| {
        let event = format!("01a2b6b4-1c00-7000-8000-{:012}", (number + 1) / 2);
        let began_at = at - (6 - number) * 97_000_000;
        let next_at = if outcome.starts_with('0') { (began_at + 97_000_000).to_string() } else { "NULL".into() };
        format!(
            "('shop', {number}, {number}, '{event}', '{kind}', 'demo', {began_at}, {took_ms}, {outcome}, {next_at})"
        )
    };
    let rows = [
        attempt(2, "recharge.succeeded", 27, "1, 200, NULL"),
        attempt(3, "balance.low", 34, "0, 503, 'status'"),
        attempt(4, "balance.low", 41, "1, 204, NULL"),
        attempt(5, "balance.exhausted", 10_001, "0, NULL, 'timeout'"),
        attempt(6, "balance.exhausted", 55, "1, 200, NULL"),
    ];
    let columns =
        "webhook_id, number, slot, event_id, type, user_id, began_at, took_ms, is_accepted, status, failure, next_at";
    service.database.execute(&format!("INSERT INTO webhook_attempt ({columns}) VALUES {}", rows.join(", "))).await;
}

/// Pages of the user: file, page, width, height, colour scheme.
const OF_USER: [(&str, &str, u32, u32, &str); 5] = [
    ("console-overview.png", "/console", 1_280, 1_180, "light"),
    ("console-usage.png", "/console/usage?by=model", 1_280, 900, "dark"),
    ("console-records.png", "/console/records", 1_280, 900, "light"),
    ("console-statement.png", "/console/statement?month=2026-10", 1_280, 800, "light"),
    ("console-phone.png", "/console", 390, 844, "dark"),
];
/// Pages of operators.
const OF_OPERATORS: [(&str, &str, u32, u32, &str); 5] = [
    ("console-charge.png", "/console/charge?user_id=demo&trace_id=demo-2026-11-24-012", 1_280, 820, "light"),
    ("console-prices.png", "/console/prices?model=gpt-4.1", 1_280, 800, "light"),
    ("console-find-phone.png", "/console/find", 360, 640, "light"),
    ("console-webhooks.png", "/console/webhooks", 1_280, 900, "light"),
    ("console-webhook.png", "/console/webhooks/shop", 1_280, 1_400, "light"),
];

/// Versions of a model, so that it has a time line.
async fn with_versions(service: &Service) {
    for (version_id, day, input) in [("v1", "2026-06-01", 18.0), ("v2", "2026-09-15", 16.0), ("v3", "2026-12-15", 12.0)]
    {
        let from: chrono::DateTime<chrono::Utc> = format!("{day}T00:00:00Z").parse().unwrap();
        let request = PutPriceVersionRequest {
            model: "gpt-4.1".into(),
            effective_from: Some(from.into()),
            version_id: version_id.into(),
            input: Some(input),
            output: Some(input * 4.0),
            ..Default::default()
        };
        service.internal.clone().put_price_version(request).await.unwrap();
    }
}

async fn history() -> Service {
    let service = demo::service_with(&SETTINGS).await;
    with_webhooks(&service).await;
    with_versions(&service).await;
    service
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pictures_of_the_document() {
    if std::env::var_os("BILLING_SCREENSHOTS").is_none() {
        return;
    }
    let service = history().await;
    let browser = Browser::open().await;
    let of_user = OF_USER.map(|picture| (picture, service.app.http_addr));
    let of_operators = OF_OPERATORS.map(|picture| (picture, service.app.grpc_addr));
    for ((name, page, width, height, scheme), addr) in of_user.into_iter().chain(of_operators) {
        browser.look(width, height, scheme).await;
        browser.go_to(&format!("http://{addr}{page}")).await;
        browser.screenshot(name).await;
    }
    // The preview of an action. It has no id and no time.
    browser.look(1_280, 900, "light").await;
    let form =
        format!("http://{}/console/actions/status?user_id=demo&status=FROZEN&reason=disputed", service.app.grpc_addr);
    browser.go_to(&form).await;
    browser.click("main button.primary").await;
    until("the preview is shown", async || browser.has("input[name=seen]").await).await;
    browser.screenshot("console-preview.png").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_history_makes_the_same_pictures() {
    let services = [history().await, history().await];
    let browser = Browser::open().await;
    let mut pictures = Vec::new();
    for service in &services {
        let of_user = OF_USER.map(|picture| (picture, service.app.http_addr));
        let of_operators = OF_OPERATORS.map(|picture| (picture, service.app.grpc_addr));
        let mut all = Vec::new();
        for ((name, page, width, height, scheme), addr) in of_user.into_iter().chain(of_operators) {
            browser.look(width, height, scheme).await;
            browser.go_to(&format!("http://{addr}{page}")).await;
            all.push((name, browser.picture().await));
        }
        pictures.push(all);
    }
    for ((name, one), (_, other)) in pictures[0].iter().zip(&pictures[1]) {
        assert!(one == other, "{name} differs");
    }
}
