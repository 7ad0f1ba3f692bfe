//! The pictures of docs/console.md: of the demo user at a fixed time, so that the same sources make the same picture.

use billing_service::service::proto::PutPriceVersionRequest;

use super::demo;
use crate::harness::{Service, browser::Browser, wait::until};

/// Pages of the user: file, page, width, height, colour scheme.
const OF_USER: [(&str, &str, u32, u32, &str); 5] = [
    ("console-overview.png", "/console", 1_280, 1_180, "light"),
    ("console-usage.png", "/console/usage?by=model", 1_280, 900, "dark"),
    ("console-records.png", "/console/records", 1_280, 900, "light"),
    ("console-statement.png", "/console/statement?month=2026-10", 1_280, 800, "light"),
    ("console-phone.png", "/console", 390, 844, "dark"),
];
/// Pages of operators.
const OF_OPERATORS: [(&str, &str, u32, u32, &str); 3] = [
    ("console-charge.png", "/console/charge?user_id=demo&trace_id=demo-2026-11-24-012", 1_280, 820, "light"),
    ("console-prices.png", "/console/prices?model=gpt-4.1", 1_280, 800, "light"),
    ("console-find-phone.png", "/console/find", 360, 640, "light"),
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pictures_of_the_document() {
    if std::env::var_os("BILLING_SCREENSHOTS").is_none() {
        return;
    }
    let service = demo::service().await;
    with_versions(&service).await;
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
    let services = [demo::service().await, demo::service().await];
    let browser = Browser::open().await;
    let mut pictures = Vec::new();
    for service in &services {
        with_versions(service).await;
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
