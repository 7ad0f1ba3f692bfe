//! The pictures of docs/console.md: of the demo user at a fixed time, so that the same sources make the same picture.

use super::demo;
use crate::harness::{browser::Browser, wait::until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pictures_of_the_document() {
    if std::env::var_os("BILLING_SCREENSHOTS").is_none() {
        return;
    }
    let service = demo::service().await;
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
    // The preview of an action. It has no id and no time.
    browser.look(1_280, 900, "light").await;
    let form =
        format!("http://{}/console/actions/status?user_id=demo&status=FROZEN&reason=disputed", service.app.grpc_addr);
    browser.go_to(&form).await;
    browser.click("main button.primary").await;
    until("the preview is shown", async || browser.has("input[name=seen]").await).await;
    browser.screenshot("console-preview.png").await;
}
