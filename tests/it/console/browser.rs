//! The console in a browser: by keyboard, on a phone, in both colour schemes, printed, and without a finding of axe.

use std::fs;

use rstest::rstest;
use serde_json::{Value, json};

use super::{OPEN, PAGES, history, open};
use crate::{
    account_status::set_status,
    harness::{
        Backend, MySql, Service, Sqlite,
        browser::Browser,
        payments::{Paying, success},
        wait::until,
    },
    webhooks::{SETTINGS, deliveries, put, receiver::Receiver, test},
};

/// The key Tab, and the key Enter.
const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";

fn url(service: &Service, page: &str) -> String {
    format!("http://{}{page}", service.app.http_addr)
}

/// The pages of operators, of data that [`Strays::make`] makes.
async fn pages_of_operators(service: &Service) -> Vec<String> {
    let (_, events) = service.internal_get("/internal/v1/billing/audit-events").await;
    let event = events["events"][0]["id"].as_str().unwrap();
    let account = PAGES.into_iter().filter(|page| *page != "/console/top-up").map(|page| format!("{page}?user_id=u"));
    let tools = [
        "/console/find",
        "/console/find?id=nothing",
        "/console/charge?user_id=u&trace_id=llm-2",
        "/console/unapplied-payments",
        "/console/prices?model=gpt-4.1",
        "/console/api-key?api_key_id=key%20%3C1%3E",
        "/console/jobs",
        "/console/health",
        "/console/audit-events",
        "/console/webhooks",
        "/console/webhooks/up",
        "/console/webhooks/down?outcome=failed",
        "/console/nothing",
        "/console/actions/refund?user_id=u&trace_id=llm-2",
        "/console/actions/resolve-payment?payment_order_id=stray",
        "/console/actions/price?model=gpt-4.1",
        "/console/actions/key-quota?api_key_id=key%20%3C1%3E",
    ];
    let of_account =
        ["status", "adjust", "limits", "plan", "alerts"].map(|action| format!("/console/actions/{action}?user_id=u"));
    let all = account.chain(tools.map(str::to_owned)).chain(of_account);
    all.chain([format!("/console/audit-events/{event}?done=1")])
        .map(|page| format!("http://{}{page}", service.app.grpc_addr))
        .collect()
}

/// A service with a history, an unapplied payment, a webhook that accepts and one that does not.
async fn with_strays(on: Backend) -> (Paying, Receiver) {
    let paying = Paying::start_with(on, &[&OPEN[..], &SETTINGS].concat()).await;
    history(&paying.service, "u").await;
    paying.notify(success("no-such-order", "stray", 5.0)).await.unwrap_err();
    let (client, receiver) = (&paying.service.internal, Receiver::start().await);
    put(client, "up", &receiver.url("/up")).await;
    put(client, "down", "http://127.0.0.1:1/").await;
    set_status(client, "told", "FROZEN").await;
    for id in ["up", "down"] {
        test(client, id).await;
        until("the event and the test were tried", async || deliveries(client, id, "").await.len() >= 2).await;
    }
    (paying, receiver)
}

/// The findings of axe on the page that is open.
async fn findings(browser: &Browser, axe: &str) -> Value {
    let run = "const done = arguments[0]; axe.run(document, {resultTypes: ['violations']}).then(found => done(\
               found.violations.map(one => [one.id, one.nodes.map(node => node.html + ' ' + node.failureSummary)])))";
    browser.run_and_wait(&format!("{axe};{run}")).await
}

#[rstest]
#[tokio::test]
async fn no_page_breaks_its_policy_or_is_wider_than_a_phone(#[values(MySql, Sqlite)] on: Backend) {
    let (paying, _receiver) = with_strays(on).await;
    let service = &paying.service;
    let browser = Browser::open().await;
    let mut pages: Vec<String> = PAGES.map(|page| url(service, page)).into();
    // A browser complains of each page with the status 404.
    let is_there = |page: &String| !page.ends_with("nothing");
    pages.extend(pages_of_operators(service).await.into_iter().filter(is_there));
    for scheme in ["light", "dark"] {
        for width in [360, 1_280] {
            browser.look(width, 800, scheme).await;
            for page in &pages {
                browser.go_to(page).await;
                assert!(browser.has("main h1").await, "{page}");
                assert_eq!(browser.complaints().await, Vec::<String>::new(), "{page}");
                // Tables that are too wide scroll by themselves.
                let width = browser.run("return [document.documentElement.scrollWidth, innerWidth]").await;
                assert!(width[0].as_u64() <= width[1].as_u64(), "{page} at {width}");
            }
        }
    }
}

#[tokio::test]
async fn money_status_and_actions_are_in_sight_on_a_phone() {
    let (paying, _receiver) = with_strays(Sqlite).await;
    let service = &paying.service;
    paying.recharge("u", 12.0).await;
    let browser = Browser::open().await;
    let [user, operators] = [service.app.http_addr, service.app.grpc_addr];
    // The last cell of each row that must be in sight: its amount, its status or its action.
    for (page, cell) in [
        (format!("http://{user}/console/usage"), "td.number"),
        (format!("http://{user}/console/records"), "td.number"),
        (format!("http://{user}/console/statement"), "td.number"),
        (format!("http://{user}/console/top-ups"), "td .badge"),
        (format!("http://{operators}/console/charge?user_id=u&trace_id=llm-2"), "td.number"),
        (format!("http://{operators}/console/unapplied-payments"), "td .badge"),
        (format!("http://{operators}/console/webhooks"), "td .badge"),
        (format!("http://{operators}/console/webhooks/up"), "td form button"),
    ] {
        for width in [390, 1_280] {
            browser.look(width, 800, "light").await;
            browser.go_to(&page).await;
            let ends = format!(
                "return [...document.querySelectorAll('main tbody tr:first-child')].map(row => row.querySelector({cell:?}))\
                 .filter(cell => cell).map(cell => cell.getBoundingClientRect().right / innerWidth)"
            );
            let ends = browser.run(&ends).await;
            let ends: Vec<f64> = ends.as_array().unwrap().iter().map(|end| end.as_f64().unwrap()).collect();
            assert!(!ends.is_empty() && ends.iter().all(|end| *end <= 1.0), "{page} at {width}: {ends:?}");
        }
    }
}

/// `BILLING_AXE` is the path of axe.min.js; `make test-console` sets it.
#[tokio::test]
async fn axe_finds_nothing_on_any_page() {
    let Some(axe) = std::env::var_os("BILLING_AXE") else { return };
    let axe = fs::read_to_string(axe).unwrap();
    let (paying, _receiver) = with_strays(Sqlite).await;
    let service = &paying.service;
    let order = paying.recharge("u", 12.0).await.order_id;
    let browser = Browser::open().await;
    let mut pages: Vec<String> = PAGES.map(str::to_owned).to_vec();
    pages.extend([
        "/console/usage?by=model&measure=units".into(),
        format!("/console/top-ups/{order}?wait=40"),
        "/console/top-ups/none".into(),
        "/console/records?service=unheard".into(),
    ]);
    let mut pages: Vec<String> = pages.iter().map(|page| url(service, page)).collect();
    pages.extend(pages_of_operators(service).await);
    for scheme in ["light", "dark"] {
        for width in [360, 1_280] {
            browser.look(width, 900, scheme).await;
            for page in &pages {
                browser.go_to(page).await;
                let found = findings(&browser, &axe).await;
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

#[tokio::test]
async fn a_keyboard_alone_finds_an_account_and_freezes_it() {
    let service = open(Sqlite).await;
    history(&service, "u").await;
    let browser = Browser::open().await;
    browser.look(1_280, 900, "light").await;
    browser.go_to(&format!("http://{}/console/find", service.app.grpc_addr)).await;
    let tab_to = async |what: &str, is_there: &str| {
        for _ in 0..60 {
            if browser.run(&format!("return {is_there}")).await == true {
                return;
            }
            browser.press(TAB).await;
        }
        panic!("no {what} within 60 stops");
    };
    tab_to("search", "document.activeElement.name === 'id'").await;
    for key in ["u", ENTER] {
        browser.press(key).await;
    }
    until("the account is open", async || title(&browser).await == "Overview").await;
    tab_to("action", "(document.activeElement.href || '').includes('/console/actions/status')").await;
    browser.press(ENTER).await;
    until("the form is open", async || browser.has("input[name=reason]").await).await;
    tab_to("choice", "document.activeElement.name === 'status'").await;
    // The arrow chooses the next one.
    for key in ["\u{e00d}", "\u{e015}"] {
        browser.press(key).await;
    }
    tab_to("reason", "document.activeElement.name === 'reason'").await;
    for key in ["r", ENTER] {
        browser.press(key).await;
    }
    until("the preview is shown", async || browser.has("input[name=seen]").await).await;
    tab_to("confirmation", "document.activeElement.innerText === 'Confirm'").await;
    browser.press(ENTER).await;
    until("it is done", async || title(&browser).await == "Done").await;
    assert_eq!(service.account("u").await.status, "FROZEN");
}

/// The title of the page; empty while it loads.
async fn title(browser: &Browser) -> String {
    let script = "const h1 = document.querySelector('main h1'); return h1 ? h1.innerText : ''";
    browser.run(script).await.as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn axe_finds_nothing_on_a_preview() {
    let Some(axe) = std::env::var_os("BILLING_AXE") else { return };
    let axe = fs::read_to_string(axe).unwrap();
    let service = open(Sqlite).await;
    history(&service, "u").await;
    let browser = Browser::open().await;
    for (width, scheme) in [(360, "dark"), (1_280, "light")] {
        browser.look(width, 900, scheme).await;
        let form = format!("http://{}/console/actions/adjust?user_id=u&amount=5&reason=r", service.app.grpc_addr);
        browser.go_to(&form).await;
        browser.click("main button.primary").await;
        until("the preview is shown", async || browser.has("input[name=seen]").await).await;
        assert_eq!(browser.complaints().await, Vec::<String>::new());
        let widths = browser.run("return [document.documentElement.scrollWidth, innerWidth]").await;
        assert!(widths[0].as_u64() <= widths[1].as_u64(), "{widths}");
        let found = findings(&browser, &axe).await;
        assert_eq!(found, json!([]), "{width} {scheme}: {found:#}");
    }
}

/// The page of a new secret, and the answer to a form that was refused. Without `BILLING_AXE`, axe does not look at them.
#[tokio::test]
async fn the_answers_to_forms_of_webhooks_suit_a_phone_and_a_keyboard() {
    let axe = std::env::var_os("BILLING_AXE").map(|axe| fs::read_to_string(axe).unwrap());
    let (paying, _receiver) = with_strays(Sqlite).await;
    let page = format!("http://{}/console/webhooks/up", paying.service.app.grpc_addr);
    let browser = Browser::open().await;
    let looks_good = async |name: &str| {
        assert_eq!(browser.complaints().await, Vec::<String>::new(), "{name}");
        let widths = browser.run("return [document.documentElement.scrollWidth, innerWidth]").await;
        assert!(widths[0].as_u64() <= widths[1].as_u64(), "{name}: {widths}");
        if let Some(axe) = &axe {
            let found = findings(&browser, axe).await;
            assert_eq!(found, json!([]), "{name}: {found:#}");
        }
    };
    for (width, scheme) in [(360, "dark"), (1_280, "light")] {
        browser.look(width, 900, scheme).await;
        browser.go_to(&page).await;
        // By keyboard: to the hours of the form, and Enter.
        for _ in 0..80 {
            if browser.run("return document.activeElement.name").await == "overlap_hours" {
                break;
            }
            browser.press(TAB).await;
        }
        browser.press(ENTER).await;
        until("the secret is shown", async || browser.has("#secret").await).await;
        assert!(browser.text("#secret").await.starts_with("whsec_"));
        looks_good("secret").await;
        browser.click("main a.button").await;
        until("the webhook is shown", async || browser.has("form[action$='/test']").await).await;
        browser.click("form[action$='/test'] button").await;
        until("the notice is shown", async || browser.has("p.notice[role=status]").await).await;
        looks_good("notice").await;
    }
}
