//! The console in a browser: by keyboard, on a phone, in both colour schemes, printed, and without a finding of axe.

use std::fs;

use serde_json::{Value, json};

use super::{PAGES, history, open};
use crate::harness::{Service, Sqlite, browser::Browser, payments::Paying, wait::until};

/// The key Tab, and the key Enter.
const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";

fn url(service: &Service, page: &str) -> String {
    format!("http://{}{page}", service.app.http_addr)
}

#[tokio::test]
async fn no_page_breaks_its_policy_or_is_wider_than_a_phone() {
    let service = open(Sqlite).await;
    history(&service, "u").await;
    let browser = Browser::open().await;
    for scheme in ["light", "dark"] {
        for width in [360, 1_280] {
            browser.look(width, 800, scheme).await;
            for page in PAGES {
                browser.go_to(&url(&service, page)).await;
                assert!(browser.has("main h1").await, "{page}");
                assert_eq!(browser.complaints().await, Vec::<String>::new(), "{page}");
                // Tables that are too wide scroll by themselves.
                let width = browser.run("return [document.documentElement.scrollWidth, innerWidth]").await;
                assert!(width[0].as_u64() <= width[1].as_u64(), "{page} at {width}");
            }
        }
    }
}

/// `BILLING_AXE` is the path of axe.min.js; `make test-console` sets it.
#[tokio::test]
async fn axe_finds_nothing_on_any_page() {
    let Some(axe) = std::env::var_os("BILLING_AXE") else { return };
    let axe = fs::read_to_string(axe).unwrap();
    let paying = Paying::start_with(Sqlite, &super::OPEN).await;
    let service = &paying.service;
    history(service, "u").await;
    let order = paying.recharge("u", 12.0).await.order_id;
    let browser = Browser::open().await;
    let mut pages: Vec<String> = PAGES.map(str::to_owned).to_vec();
    pages.extend([
        "/console/usage?by=model&measure=units".into(),
        format!("/console/top-ups/{order}?wait=40"),
        "/console/top-ups/none".into(),
        "/console/records?service=unheard".into(),
    ]);
    for scheme in ["light", "dark"] {
        for width in [360, 1_280] {
            browser.look(width, 900, scheme).await;
            for page in &pages {
                browser.go_to(&url(service, page)).await;
                let run = "const done = arguments[0]; axe.run(document, {resultTypes: ['violations']}).then(found => done(\
                           found.violations.map(one => [one.id, one.nodes.map(node => node.html + ' ' + node.failureSummary)])))";
                let found = browser.run_and_wait(&format!("{axe};{run}")).await;
                assert_eq!(found, json!([]), "{page} {scheme} {width}: {found:#}");
            }
        }
    }
}

#[tokio::test]
async fn a_keyboard_alone_shows_the_numbers_of_a_day_and_starts_a_top_up() {
    // Payers come back to a listed host alone.
    let settings = [&super::OPEN[..], &[("server.http.hosts", "[127.0.0.1]")]].concat();
    let paying = Paying::start_with(Sqlite, &settings).await;
    let service = &paying.service;
    history(service, "u").await;
    let browser = Browser::open().await;
    browser.look(1_280, 900, "light").await;
    browser.go_to(&url(service, "/console/usage")).await;
    browser.press(TAB).await;
    assert_eq!(focused(&browser).await, "Skip to the content", "the first stop skips the navigation");
    browser.press(ENTER).await;
    let mut tips = 0;
    for _ in 0..40 {
        browser.press(TAB).await;
        let tip = browser.run("const li = document.activeElement.closest('.bars li'); return li && [getComputedStyle(li.querySelector('.tip')).opacity, li.innerText]").await;
        if let Value::Array(shown) = tip {
            assert_eq!(shown[0], "1", "{shown:?}");
            tips += 1;
        }
    }
    assert_eq!(tips, 30, "each day is a stop");

    browser.go_to(&url(service, "/console/top-up")).await;
    for _ in 0..20 {
        if browser.run("return document.activeElement.name").await == "amount" {
            break;
        }
        browser.press(TAB).await;
    }
    for key in ["7", ENTER] {
        browser.press(key).await;
    }
    until("the pay page is open", async || browser.has("button[value=SUCCESS]").await).await;
    let orders = paying.orders("u").await;
    assert_eq!((orders.len(), orders[0].amount), (1, 7.0));
    browser.click("button[value=SUCCESS]").await;
    until("it is paid", async || browser.has("p.back a").await).await;
    paying.until_order_is(&orders[0].order_id, "success").await;
    browser.click("p.back a").await;
    until("the console shows the credit", async || browser.text("main h1").await == "Credited to your balance").await;
}

async fn focused(browser: &Browser) -> String {
    browser.run("return document.activeElement.innerText").await.as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_printed_statement_has_no_navigation_and_repeats_its_head() {
    let service = open(Sqlite).await;
    history(&service, "u").await;
    let browser = Browser::open().await;
    browser.look(1_280, 900, "light").await;
    browser.go_to(&url(&service, "/console/statement")).await;
    browser.command("Emulation.setEmulatedMedia", json!({"media": "print"})).await;
    let shown = browser.run("const shows = name => [...document.querySelectorAll(name)].some(part => part.offsetParent); return [shows('.side'), shows('.screen'), shows('.paper'), getComputedStyle(document.querySelector('thead')).display, getComputedStyle(document.querySelector('tbody tr')).breakInside]").await;
    assert_eq!(shown, json!([false, false, true, "table-header-group", "avoid"]));
    let printed = browser.command("Page.printToPDF", json!({"preferCSSPageSize": true})).await;
    assert!(printed["data"].as_str().unwrap().len() > 10_000);
}
