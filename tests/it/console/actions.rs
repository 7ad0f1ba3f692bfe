//! The actions of operators: a preview changes nothing, a confirmation changes once what the preview told, and a
//! preview that is no longer true is shown anew.

use std::collections::BTreeMap;

use billing_service::service::proto::RechargeCallbackRequest;
use rstest::rstest;
use serde_json::{Value, json};

use super::{
    OPEN, history,
    operators::{settings, token},
    visitor::{Shown, Visitor},
};
use crate::harness::{
    Backend, MySql, Service, Sqlite,
    payments::{Paying, success},
};

/// The hidden and chosen fields of the confirmation on a preview.
pub fn confirmation(preview: &Shown, action: &str) -> BTreeMap<String, String> {
    preview.hidden(&format!("/console/actions/{action}"))
}

pub async fn previewed(operator: &Visitor, action: &str, fields: &[(&str, &str)]) -> Shown {
    let path = format!("/console/actions/{action}");
    operator.submit(&path, &path, fields).await
}

pub async fn confirm(operator: &Visitor, action: &str, fields: &BTreeMap<String, String>) -> Shown {
    let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    operator.post(&format!("/console/actions/{action}"), &fields).await
}

pub async fn events(service: &Service) -> Vec<Value> {
    let (_, reply) = service.internal_get("/internal/v1/billing/audit-events?page_size=100").await;
    reply["events"].as_array().unwrap().clone()
}

async fn post(service: &Service, route: &str, body: &'static str) -> (u16, String) {
    let url = format!("http://{}/internal/v1/billing/{route}", service.app.grpc_addr);
    let reply = service.http.post(url).header("content-type", "application/json").body(body).send().await.unwrap();
    (reply.status().as_u16(), reply.text().await.unwrap())
}

/// The rows of the table of figures: name, before, after.
fn figures(shown: &Shown) -> BTreeMap<String, (String, String)> {
    let table = shown.html.split("<tbody>").nth(1).unwrap_or_else(|| panic!("no figures: {}", shown.html));
    let rows = table.split("</tbody>").next().unwrap().split("<tr").skip(1);
    let texts = |row: &str| -> Vec<String> {
        let parts = row.split('<').filter_map(|part| part.split_once('>').map(|(_, text)| text.trim().to_owned()));
        parts.filter(|text| !text.is_empty()).collect()
    };
    rows.map(|row| texts(&format!("<tr{row}")))
        .map(|cells| {
            let [name, before, after] = &cells[..] else { panic!("{cells:?}") };
            (name.clone(), (before.clone(), after.clone()))
        })
        .collect()
}

/// Names and values of the fields of a form.
type Fields<'f> = Vec<(&'f str, &'f str)>;
/// An action, its form, some of the figures of its preview, and its rpc.
type Case<'c> = (&'c str, Vec<(&'c str, &'c str)>, Vec<(&'c str, &'c str, &'c str)>, &'c str);

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_action_is_previewed_without_a_change_and_made_once(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start_with(on, &[&OPEN[..], &[("billing.plans", "{gold: {multiplier: 2}}")]].concat()).await;
    let service = &paying.service;
    history(service, "alice").await;
    let order = paying.recharge("alice", 12.0).await;
    paying.press(&order.payment_url, "SUCCESS").await;
    paying.until_order_is(&order.order_id, "success").await;
    for (payment, currency) in [("stray-1", "CNY"), ("stray-2", "CNY"), ("stray-3", "USD")] {
        let report = RechargeCallbackRequest { currency: currency.into(), ..success("no-such-order", payment, 5.0) };
        paying.notify(report).await.unwrap_err();
    }
    let operator = Visitor::of_operators(service);
    let (who, why) = (("user_id", "alice"), ("reason", "as she asked"));
    let cases: [Case<'_>; 16] = [
        ("open", vec![("user_id", "newcomer")], vec![("Balance", "none", "0.00 CNY")], "InitializeUser"),
        ("status", vec![who, ("status", "FROZEN"), why], vec![("Status", "Active", "Frozen")], "SetAccountStatus"),
        ("status", vec![who, ("status", "ACTIVE"), why], vec![("Status", "Frozen", "Active")], "SetAccountStatus"),
        (
            "adjust",
            vec![who, ("amount", "-0.5"), why],
            vec![("Balance", "1,246.375564 CNY", "1,245.875564 CNY"), ("Amount", "none", "\u{2212}0.50 CNY")],
            "AdjustBalance",
        ),
        (
            "limits",
            vec![who, ("daily_limit", "600"), ("monthly_limit", "9000")],
            vec![("Requests a day", "500", "600"), ("Requests a month", "none", "9000")],
            "SetUserLimits",
        ),
        ("plan", vec![who, ("plan", "gold")], vec![("Plan", "default", "gold")], "SetUserPlan"),
        (
            "alerts",
            vec![who, ("balance_below", "5 0.25"), ("quota_percent", "50,90")],
            vec![("Alert below", "none", "0.25, 5"), ("Alert at percent", "none", "50, 90")],
            "SetAlerts",
        ),
        (
            "key-quota",
            vec![("api_key_id", "key <1>"), ("quota_type", "requests"), ("period", "month"), ("limit", "99")],
            vec![("Limit", "77", "99")],
            "SetApiKeyQuota",
        ),
        (
            "key-quota",
            vec![("api_key_id", "key <1>"), ("quota_type", "tokens"), ("period", "month"), ("limit", "5000000000")],
            vec![("Limit", "none", "5000000000")],
            "SetApiKeyQuota",
        ),
        (
            "refund",
            vec![who, ("trace_id", "call-1"), ("count", "4"), why],
            vec![("Balance", "1,245.875564 CNY", "1,245.915564 CNY"), ("Paid units given back", "none", "4")],
            "RefundCharge",
        ),
        (
            "refund-top-up",
            vec![("order_id", &order.order_id), ("amount", "2"), why],
            vec![("Held", "0.00 CNY", "2.00 CNY")],
            "RefundRecharge",
        ),
        (
            "resolve-payment",
            vec![("payment_order_id", "stray-1"), ("action", "credit"), who, why],
            vec![("Balance", "1,243.915564 CNY", "1,248.915564 CNY"), ("Status", "Open", "Credited")],
            "ResolvePayment",
        ),
        (
            "resolve-payment",
            vec![("payment_order_id", "stray-2"), ("action", "dismiss"), why],
            vec![("Status", "Open", "Dismissed")],
            "ResolvePayment",
        ),
        (
            "resolve-payment",
            vec![("payment_order_id", "stray-3"), ("action", "dismiss"), why],
            vec![("Amount", "5.00 USD", "5.00 USD"), ("Currency", "USD", "USD")],
            "ResolvePayment",
        ),
        (
            "price",
            vec![
                ("model", "new-model"),
                ("version_id", "v1"),
                ("effective_from", "2999-01-01T00:00:00"),
                ("input", "3"),
                ("output", "15"),
            ],
            vec![("Version", "none", "v1"), ("Input tokens", "none", "3"), ("Output tokens", "none", "15")],
            "PutPriceVersion",
        ),
        (
            "delete-price",
            vec![("model", "new-model"), ("version_id", "v1")],
            vec![("Version", "v1", "none")],
            "DeletePriceVersion",
        ),
    ];
    for (action, fields, expected, rpc) in cases {
        let before = events(service).await.len();
        let preview = previewed(&operator, action, &fields).await;
        assert_eq!(preview.status, 200, "{action} {fields:?}: {}", preview.text());
        let told = figures(&preview);
        let is_text = |name: &String| name.starts_with(|first: char| first.is_ascii_uppercase()) && !name.contains('_');
        assert!(told.keys().all(is_text), "{action}: a figure has no text: {told:?}");
        for (name, was, is) in expected {
            assert_eq!(told.get(name), Some(&(was.to_owned(), is.to_owned())), "{action}: {told:?}");
        }
        assert_eq!(events(service).await.len(), before, "{action}: a preview changes nothing");

        let sent = confirmation(&preview, action);
        let other = BTreeMap::from_iter(sent.clone().into_iter().chain([("seen".into(), "of another change".into())]));
        let refused = confirm(&operator, action, &other).await;
        assert_eq!((refused.status, events(service).await.len()), (409, before), "{action}: {}", refused.text());
        let confirmations = [confirm(&operator, action, &sent), confirm(&operator, action, &sent)];
        for done in futures_util::future::join_all(confirmations).await {
            let result = format!("/console/audit-events/{}?done=1", sent["key"]);
            assert_eq!((done.status, done.header("location")), (303, result.as_str()), "{action}: {}", done.text());
        }
        let all = events(service).await;
        assert_eq!(all.len(), before + 1, "{action}: a double click is one change");
        assert_eq!((all[0]["rpc"].as_str(), all[0]["id"].as_str()), (Some(rpc), Some(sent["key"].as_str())));
        let again = confirm(&operator, action, &sent).await;
        assert_eq!(
            (again.status, events(service).await.len()),
            (303, before + 1),
            "{action}: a reload changes nothing"
        );
        let result = operator.get(again.header("location")).await;
        assert_eq!((result.status, figures(&result)), (200, told), "{action}: the preview was true");
        assert!(result.text().contains("The change is made."), "{}", result.text());
    }
    paying.assert_books("alice", 1_248.915564).await;
}

#[rstest]
#[tokio::test]
async fn a_preview_that_is_no_longer_true_is_shown_anew(#[values(MySql, Sqlite)] on: Backend) {
    let service = super::open(on).await;
    history(&service, "alice").await;
    let operator = Visitor::of_operators(&service);
    let who = ("user_id", "alice");
    let changes: [(&str, Fields<'_>, &str, &str); 4] = [
        (
            "adjust",
            vec![who, ("amount", "2"), ("reason", "r")],
            "adjust",
            r#"{"user_id":"alice","amount":1,"reason":"r","adjustment_id":"a"}"#,
        ),
        (
            "refund",
            vec![who, ("trace_id", "call-1"), ("reason", "r")],
            "refund",
            r#"{"user_id":"alice","trace_id":"call-1","count":1,"refund_id":"a","reason":"r"}"#,
        ),
        ("limits", vec![who, ("daily_limit", "7")], "users/alice/limits", r#"{"daily_limit":8}"#),
        (
            "key-quota",
            vec![("api_key_id", "key <1>"), ("quota_type", "requests"), ("period", "month"), ("limit", "9")],
            "api-keys/key%20%3C1%3E/quota",
            r#"{"quota_type":"requests","period":"month","limit":8}"#,
        ),
    ];
    for (action, fields, route, body) in changes {
        let first = previewed(&operator, action, &fields).await;
        assert_eq!(first.status, 200, "{}", first.text());
        let (status, reply) = post(&service, route, body).await;
        assert_eq!(status, 200, "{reply}");
        let before = events(&service).await.len();
        let stale = confirm(&operator, action, &confirmation(&first, action)).await;
        assert!(
            stale.status == 409 && stale.text().contains("the state has changed since the preview"),
            "{action}: {}",
            stale.text()
        );
        assert_ne!(figures(&stale), figures(&first), "{action}: the new preview has the new figures");
        assert_eq!(events(&service).await.len(), before, "{action}: nothing was changed");
        let made = confirm(&operator, action, &confirmation(&stale, action)).await;
        assert_eq!((made.status, events(&service).await.len()), (303, before + 1), "{action}: {}", made.text());
        let result = operator.get(made.header("location")).await;
        assert_eq!(figures(&result), figures(&stale), "{action}");
    }
}

#[rstest]
#[tokio::test]
async fn a_price_is_confirmed_only_beside_the_versions_of_its_preview(#[values(MySql, Sqlite)] on: Backend) {
    let service = super::open(on).await;
    let operator = Visitor::of_operators(&service);
    let put = |from, input| [("model", "gpt-4.1"), ("effective_from", from), ("input", input), ("output", "8")];
    let fields = put("2020-02-01T00:00:00", "3");
    let first = previewed(&operator, "price", &fields).await;
    assert!(first.text().contains("Beside the version in force"), "{}", first.text());
    assert!(first.text().contains("Input tokens 2 3"), "{}", first.text());
    let other = previewed(&operator, "price", &put("2020-03-01T00:00:00", "4")).await;
    assert_eq!(confirm(&operator, "price", &confirmation(&other, "price")).await.status, 303);
    let before = events(&service).await.len();
    let stale = confirm(&operator, "price", &confirmation(&first, "price")).await;
    assert!(
        stale.status == 409 && stale.text().contains("the state has changed since the preview"),
        "{}",
        stale.text()
    );
    assert!(stale.text().contains("Input tokens 4 3"), "{}", stale.text());
    assert!(stale.text().contains("A later version is in force already"), "{}", stale.text());
    assert_eq!(events(&service).await.len(), before, "nothing was changed");
    let made = confirm(&operator, "price", &confirmation(&stale, "price")).await;
    assert_eq!((made.status, events(&service).await.len()), (303, before + 1), "{}", made.text());
}

#[tokio::test]
async fn a_refund_that_is_not_made_is_not_called_done() {
    let paying = Paying::start_with(Sqlite, &OPEN).await;
    let order = paying.recharge("alice", 12.0).await;
    paying.press(&order.payment_url, "SUCCESS").await;
    paying.until_order_is(&order.order_id, "success").await;
    paying.notify(success("no-such-order", "stray-1", 5.0)).await.unwrap_err();
    let operator = Visitor::of_operators(&paying.service);
    let top_up = [("order_id", order.order_id.as_str()), ("amount", "2"), ("reason", "r")];
    let stray = [("payment_order_id", "stray-1"), ("action", "refund"), ("reason", "r")];
    for (switch, action, fields, told) in [
        ("fail", "refund-top-up", &top_up, "The refund has failed"),
        ("refuse", "resolve-payment", &stray, "The refund has failed"),
        ("pending", "refund-top-up", &top_up, "not finished"),
    ] {
        paying.switch(json!({ "refund": switch }));
        let preview = previewed(&operator, action, fields).await;
        let made = confirm(&operator, action, &confirmation(&preview, action)).await;
        assert_eq!(made.status, 303, "{action}: {}", made.text());
        let result = operator.get(made.header("location")).await;
        assert!(result.status == 200 && result.text().contains(told), "{switch} {action}: {}", result.text());
        assert!(!result.text().contains("The change is made."), "{switch} {action}: {}", result.text());
    }
}

#[tokio::test]
async fn a_change_that_somebody_else_has_made_is_not_made_again() {
    let service = super::open(Sqlite).await;
    history(&service, "alice").await;
    let operator = Visitor::of_operators(&service);
    let fields = [("user_id", "alice"), ("status", "FROZEN"), ("reason", "r")];
    let [one, other] = [previewed(&operator, "status", &fields).await, previewed(&operator, "status", &fields).await];
    assert_eq!(confirm(&operator, "status", &confirmation(&one, "status")).await.status, 303);
    let late = confirm(&operator, "status", &confirmation(&other, "status")).await;
    assert!(late.status == 409 && late.text().contains("the state is so already"), "{}", late.text());
    let again = previewed(&operator, "status", &fields).await;
    assert!(again.status == 409 && again.text().contains("the state is so already"), "{}", again.text());
}

#[rstest]
#[tokio::test]
async fn a_refused_action_says_why_and_a_slip_in_a_user_id_opens_no_account(#[values(MySql, Sqlite)] on: Backend) {
    let service = super::open(on).await;
    history(&service, "alice").await;
    let before = events(&service).await.len();
    let operator = Visitor::of_operators(&service);
    for (action, fields, status, why) in [
        ("adjust", vec![("user_id", "alcie"), ("amount", "5"), ("reason", "r")], 400, "has no account"),
        ("adjust", vec![("user_id", "alice"), ("amount", "-9999"), ("reason", "r")], 400, "balance is not enough"),
        ("adjust", vec![("user_id", "alice"), ("amount", "five"), ("reason", "r")], 400, "Amount: "),
        ("adjust", vec![("user_id", "alice"), ("amount", "5"), ("reason", "")], 400, "Reason: "),
        ("refund", vec![("user_id", "alice"), ("trace_id", "none"), ("reason", "r")], 404, "not found"),
        (
            "refund",
            vec![("user_id", "alice"), ("trace_id", "call-1"), ("count", "999"), ("reason", "r")],
            400,
            "Units: ",
        ),
        ("plan", vec![("user_id", "alice"), ("plan", "platinum")], 400, "platinum"),
        (
            "resolve-payment",
            vec![("payment_order_id", "p"), ("action", "dismiss"), ("reason", "r")],
            404,
            "payment p not found",
        ),
        ("refund-top-up", vec![("order_id", "o"), ("reason", "r")], 503, "payment is unavailable"),
        ("refund-top-up", vec![("order_id", "o"), ("amount", "0"), ("reason", "r")], 400, "must be above 0"),
        ("price", vec![("model", "m"), ("tiers", "x"), ("effective_from", "2999-01-01T00:00:00")], 400, "Tiers: "),
        ("status", vec![("user_id", "alice"), ("status", "ASLEEP"), ("reason", "r")], 400, "Status: "),
    ] {
        let refused = previewed(&operator, action, &fields).await;
        assert!(refused.status == status && refused.text().contains(why), "{action} {fields:?}: {}", refused.text());
        // The form keeps its values.
        let is_kept = |value: &str| {
            refused.html.contains(&format!("value=\"{value}\"")) || refused.html.contains(&format!(">{value}<"))
        };
        assert!(
            fields.iter().all(|(name, value)| value.is_empty() || *name == "status" || is_kept(value)),
            "{}",
            refused.html
        );
    }
    assert_eq!(events(&service).await.len(), before);
    let (_, opened) = post(&service, "users", r#"{"user_id":"alcie"}"#).await;
    assert!(opened.contains(r#""created":true"#), "{opened}");
}

#[tokio::test]
async fn the_way_back_from_a_preview_keeps_the_values() {
    let service = super::open(Sqlite).await;
    history(&service, "alice").await;
    let operator = Visitor::of_operators(&service);
    let price = vec![("model", "gpt-4.1"), ("effective_from", "2999-01-01T00:00:00"), ("input", "4"), ("output", "16")];
    let cases: [(&str, Fields<'_>, Fields<'_>); 2] = [
        // The cap of a day is emptied, which removes it.
        ("limits", vec![("user_id", "alice"), ("monthly_limit", "70")], vec![("daily_limit", "500")]),
        ("price", price, vec![("input", "2")]),
    ];
    for (action, fields, emptied) in cases {
        let form = format!("/console/actions/{action}");
        let filled = operator.get(&format!("{form}?{}={}", fields[0].0, fields[0].1)).await;
        let has = |shown: &Shown, (name, value): &(&str, &str)| {
            let (name, value) = (format!(r#"name="{name}""#), format!(r#"value="{value}""#));
            shown.html.split('<').any(|tag| tag.contains(&name) && tag.contains(&value))
        };
        assert!(emptied.iter().all(|field| has(&filled, field)), "{action}: {}", filled.html);
        let preview = previewed(&operator, action, &fields).await;
        let back =
            preview.attributes("href").into_iter().find(|href| href.starts_with(&form) && href.contains("edit="));
        let edited = operator.get(&back.unwrap_or_else(|| panic!("{}", preview.html))).await;
        assert!(fields.iter().all(|field| has(&edited, field)), "{action}: {}", edited.html);
        assert!(!emptied.iter().any(|field| has(&edited, field)), "{action}: {}", edited.html);
    }
}

#[tokio::test]
async fn a_form_that_is_sent_again_with_other_values_is_another_action() {
    let service = super::open(Sqlite).await;
    history(&service, "alice").await;
    let operator = Visitor::of_operators(&service);
    let form = operator.get("/console/actions/adjust?user_id=alice").await.hidden("/console/actions/adjust");
    let preview = async |amount: &str| {
        let mut fields = form.clone();
        fields.extend(
            [("user_id", "alice"), ("amount", amount), ("reason", "r")]
                .map(|(name, value)| (name.into(), value.into())),
        );
        confirm(&operator, "adjust", &fields).await
    };
    // Both previews are open before the first one is confirmed, as in two tabs.
    let first = confirmation(&preview("1").await, "adjust");
    let second = confirmation(&preview("2").await, "adjust");
    assert_ne!(first["key"], second["key"]);
    assert_eq!(confirm(&operator, "adjust", &first).await.status, 303);
    let stale = confirm(&operator, "adjust", &second).await;
    assert_eq!(stale.status, 409, "the second is not called done: {}", stale.text());
    assert_eq!(confirm(&operator, "adjust", &confirmation(&stale, "adjust")).await.status, 303);
    assert_eq!(events(&service).await.iter().filter(|event| event["rpc"] == "AdjustBalance").count(), 3);
}

#[tokio::test]
async fn only_the_role_of_the_rpcs_may_preview_or_confirm() {
    let service = Service::start_with(Sqlite, &settings()).await;
    let admin = Visitor::of_operators(&service);
    admin.sign_in(&token("admin")).await;
    let made = previewed(&admin, "open", &[("user_id", "alice")]).await;
    assert_eq!(confirm(&admin, "open", &confirmation(&made, "open")).await.status, 303);
    let fields = [("user_id", "alice"), ("amount", "5"), ("reason", "r")];
    let preview = previewed(&admin, "adjust", &fields).await;
    let sent = confirmation(&preview, "adjust");
    for role in ["support", "gateway", "keys", "payment", "metrics"] {
        let other = Visitor::of_operators(&service);
        other.sign_in(&token(role)).await;
        // A proof of the form of their own session, if they can read a page.
        let page = other.get("/console/find").await;
        let mut own = sent.clone();
        if page.status == 200 {
            own.insert("form_token".into(), page.hidden("/console/language")["form_token"].clone());
        }
        assert_eq!(confirm(&other, "adjust", &own).await.status, 403, "{role}");
        assert_eq!(other.get("/console/actions/adjust?user_id=alice").await.status, 403, "{role}");
        let account = other.get("/console?user_id=alice").await;
        assert!(!account.html.contains("/console/actions/"), "{role} sees no action that it may not do");
    }
    let balance = async || {
        let url = format!("http://{}/api/v1/billing/account?user_id=alice", service.app.http_addr);
        let reply: Value = service.http.get(url).send().await.unwrap().json().await.unwrap();
        reply["balance"].as_f64().unwrap()
    };
    assert_eq!(balance().await, 0.0);
    assert!(admin.get("/console?user_id=alice").await.html.contains("/console/actions/adjust?user_id=alice"));
    // Without the proof of the form, or with that of another session.
    let other = Visitor::of_operators(&service);
    other.sign_in(&token("admin")).await;
    for proof in ["", "x", other.get("/console/find").await.hidden("/console/language")["form_token"].as_str()] {
        let mut forged = sent.clone();
        forged.insert("form_token".into(), proof.into());
        let refused = confirm(&admin, "adjust", &forged).await;
        assert!(refused.status == 403 && refused.text().contains("Nothing was changed"), "{}", refused.text());
    }
    assert_eq!(balance().await, 0.0);
    assert_eq!(confirm(&admin, "adjust", &sent).await.status, 303);
    assert_eq!(balance().await, 5.0);
    let event = admin.get(&format!("/console/audit-events/{}", sent["key"])).await;
    assert!(event.text().contains("admin (admin)"), "{}", event.text());
}
