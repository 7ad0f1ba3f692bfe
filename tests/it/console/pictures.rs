//! The pictures of docs/console.md: of the demo user at a fixed time, so that the same sources make the same picture.

use billing_service::service::proto::PutWebhookRequest;

use super::demo;
use crate::{
    harness::{Service, browser::Browser, wait::until},
    webhooks::{SETTINGS, put_request},
};

/// Three webhooks, and attempts at one of them with ids and times that are always the same.
async fn webhooks(service: &Service) {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pictures_of_the_document() {
    if std::env::var_os("BILLING_SCREENSHOTS").is_none() {
        return;
    }
    let service = demo::service_with(&SETTINGS).await;
    webhooks(&service).await;
    let browser = Browser::open().await;
    for (name, page, width, height, scheme) in [
        ("console-overview.png", "/console", 1_280, 1_180, "light"),
        ("console-usage.png", "/console/usage?by=model", 1_280, 900, "dark"),
        ("console-records.png", "/console/records", 1_280, 900, "light"),
        ("console-statement.png", "/console/statement?month=2026-10", 1_280, 800, "light"),
        ("console-phone.png", "/console", 390, 844, "dark"),
    ] {
        browser.look(width, height, scheme).await;
        browser.go_to(&format!("http://{}{page}", service.app.http_addr)).await;
        browser.screenshot(name).await;
    }
    for (name, page, height) in
        [("console-webhooks.png", "/console/webhooks", 900), ("console-webhook.png", "/console/webhooks/shop", 1_400)]
    {
        browser.look(1_280, height, "light").await;
        browser.go_to(&format!("http://{}{page}", service.app.grpc_addr)).await;
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
