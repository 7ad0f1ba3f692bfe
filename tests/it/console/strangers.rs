//! Another account's ids in every address and every form of the console: they show and change nothing.

use reqwest::Method;
use serde_json::{Value, json};

use super::{
    OPEN, history,
    operators::{self, settings},
    sign, signing_in, token,
    visitor::Visitor,
};
use crate::{
    access::{PageRow, issuer, pages_of_the_access_table},
    harness::{
        Service, Sqlite,
        payments::{self, Paying, success},
    },
    webhooks::{self, put},
};

/// The ids of an account with history, a top-up, an unapplied payment, an audit event and a webhook beside it.
struct Ids {
    order: String,
    event: String,
    after: String,
}

/// All actions of operators, each with fields that are right for the account `victim`.
fn actions(ids: &Ids) -> Vec<(&'static str, Vec<(&'static str, String)>)> {
    let who = ("user_id", "victim".to_owned());
    let why = ("reason", "r".to_owned());
    let text = |name: &'static str, value: &str| (name, value.to_owned());
    vec![
        ("status", vec![who.clone(), text("status", "FROZEN"), why.clone()]),
        ("adjust", vec![who.clone(), text("amount", "5"), why.clone()]),
        ("limits", vec![who.clone(), text("daily_limit", "7")]),
        ("plan", vec![who.clone(), text("plan", "default")]),
        ("alerts", vec![who.clone(), text("balance_below", "7")]),
        ("key-quota", vec![text("api_key_id", "key <1>"), text("quota_type", "requests"), text("period", "month")]),
        ("open", vec![text("user_id", "newcomer")]),
        ("refund", vec![who.clone(), text("trace_id", "call-1"), why.clone()]),
        ("refund-top-up", vec![("order_id", ids.order.clone()), why.clone()]),
        ("resolve-payment", vec![text("payment_order_id", "stray"), text("action", "credit"), who, why]),
        ("price", vec![text("model", "m"), text("effective_from", "2999-01-01T00:00:00"), text("input", "1")]),
        ("delete-price", vec![text("model", "m"), text("version_id", "v")]),
    ]
}

/// The addresses of a row with these ids in the path. That of an action is one for each action.
fn paths(page: &PageRow, ids: &Ids) -> Vec<String> {
    let path = page
        .path
        .replace("{order_id}", &ids.order)
        .replace("{id}", &ids.event)
        .replace("{webhook_id}", "w")
        .replace("{file}", "console.css")
        .replace("{*path}", "nothing");
    match path.contains("{action}") {
        true => actions(ids).into_iter().map(|(action, _)| path.replace("{action}", action)).collect(),
        false => vec![path],
    }
}

/// Every field of every form, with the ids of the victim and with values that are right.
fn all_fields(ids: &Ids, path: &str, proof: &str) -> Vec<(String, String)> {
    let of_action = actions(ids).into_iter().find(|(action, _)| path == format!("/console/actions/{action}"));
    let others = [
        ("user_id", "victim"),
        ("order_id", &ids.order),
        ("trace_id", "call-1"),
        ("api_key_id", "key <1>"),
        ("payment_order_id", "stray"),
        ("webhook_id", "w"),
        ("amount", "5"),
        ("method", "alipay"),
        ("key", "k"),
        ("overlap_hours", "1"),
        ("confirmed", "on"),
        ("url", "http://127.0.0.1:1/"),
    ];
    let mut fields: Vec<(String, String)> = of_action
        .map(|(_, fields)| fields)
        .unwrap_or_default()
        .into_iter()
        .map(|(name, value)| (name.into(), value))
        .collect();
    for (name, value) in others.into_iter().chain([("form_token", proof)]) {
        if !fields.iter().any(|(own, _)| own == name) {
            fields.push((name.into(), value.into()));
        }
    }
    fields
}

async fn post(visitor: &Visitor, path: &str, fields: &[(String, String)]) -> super::visitor::Shown {
    let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    visitor.post(path, &fields).await
}

/// The rows that a call could change.
async fn books(service: &Service) -> Vec<Vec<Vec<String>>> {
    let mut books = Vec::new();
    for (columns, of) in [
        (&["balance", "held", "status", "plan"][..], "FROM user_balance WHERE user_id = 'victim'"),
        (
            &["user_id", "order_id", "amount", "status"],
            "FROM recharge_order WHERE user_id = 'victim' ORDER BY order_id",
        ),
        (&["COUNT(*)"], "FROM billing_record WHERE user_id = 'victim'"),
        (&["COUNT(*)"], "FROM audit_event"),
        (&["payment_order_id", "status"], "FROM unapplied_payment ORDER BY payment_order_id"),
        (&["webhook_id", "url"], "FROM webhook ORDER BY webhook_id"),
        (&["COUNT(*)"], "FROM webhook_resend"),
        (&["COUNT(*)"], "FROM price_version"),
        (&["api_key_id", "quota_limit"], "FROM api_key_quota ORDER BY api_key_id"),
    ] {
        books.push(service.database.rows(columns, of).await);
    }
    books
}

/// Makes the victim and its history. `bearer` is its proof on the public port.
async fn victim(paying: &Paying, bearer: Option<&str>) -> Ids {
    let service = &paying.service;
    history(service, "victim").await;
    let order = paying.recharge("victim", 77.77).await;
    paying.press(&order.payment_url, "SUCCESS").await;
    paying.until_order_is(&order.order_id, "success").await;
    paying.notify(success("no-such-order", "stray", 5.0)).await.unwrap_err();
    put(&service.internal, "w", "http://127.0.0.1:1/").await;
    let url = format!("http://{}/api/v1/billing/records?user_id=victim&page_size=2", service.app.http_addr);
    let mut request = service.http.get(url);
    if let Some(token) = bearer {
        request = request.bearer_auth(token);
    }
    let listed: Value = request.send().await.unwrap().json().await.unwrap();
    let (_, events) = service.internal_get("/internal/v1/billing/audit-events").await;
    Ids {
        order: order.order_id,
        event: events["events"][0]["id"].as_str().unwrap().to_owned(),
        after: listed["next_page_token"].as_str().unwrap().to_owned(),
    }
}

#[tokio::test]
async fn a_user_sees_and_changes_nothing_of_another_one_by_any_address_or_form() {
    let victims = token("victim");
    let paying = Paying::start_with(Sqlite, &[&signing_in()[..], &webhooks::SETTINGS].concat()).await;
    let (service, ids) = (&paying.service, victim(&paying, Some(&victims)).await);
    let visitor = Visitor::of(service);
    visitor.sign_in(&token("u")).await;
    let proof = visitor.get("/console/top-up").await.hidden("/console/top-up")["form_token"].clone();
    // Texts of the victim that no address below has.
    let leaks = ["llm-0", "llm-1", "call-2", "1,234", "1,312", "77.77", "0.012218"];
    let before = books(service).await;
    let query = format!(
        "order_id={}&trace_id=call-1&api_key_id=key%20%3C1%3E&payment_order_id=stray&after={}&id={}",
        ids.order, ids.after, ids.event
    );
    let (mut tried, mut wrong) = (0, Vec::new());
    let of_none = |page: &PageRow| page.public.as_deref() == Some("everyone");
    for page in pages_of_the_access_table().into_iter().filter(|page| !of_none(page)) {
        for path in paths(&page, &ids) {
            for named in ["user_id=victim&", ""] {
                let address = format!("{path}?{named}{query}");
                let shown = match page.method {
                    Method::GET => visitor.get(&address).await,
                    _ => post(&visitor, &address, &all_fields(&ids, &path, &proof)).await,
                };
                let expected: &[u16] = match (&page.public, named) {
                    // It is not there on this port.
                    (None, _) => &[404],
                    (Some(_), "") if path.contains(&ids.order) => &[404],
                    // The form of a top-up starts one of the user's own.
                    (Some(_), "") => &[200, 303, 400],
                    (Some(_), _) => &[403],
                };
                let leak = leaks.iter().find(|text| shown.html.contains(**text));
                if !expected.contains(&shown.status) || leak.is_some() {
                    wrong.push(format!("{} {address}: {} {leak:?}", page.method, shown.status));
                }
                tried += 1;
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(tried > 90, "only {tried}");
    assert_eq!(books(service).await, before);
    // It was the user's own: a field of a form names no account.
    assert_eq!(paying.orders("u").await.len(), 1);
    assert_eq!(paying.orders("victim").await.len(), 1);
}

#[tokio::test]
async fn a_reader_of_any_account_changes_none_by_any_address_or_form() {
    let paying = Paying::start_with(Sqlite, &[&signing_in()[..], &webhooks::SETTINGS].concat()).await;
    let (service, ids) = (&paying.service, victim(&paying, Some(&token("victim"))).await);
    let support = sign(&issuer::with(&issuer::claims("s"), "scope", json!("billing:support")));
    let visitor = Visitor::of(service);
    visitor.sign_in(&support).await;
    let proof = visitor.get("/console/top-ups?user_id=victim").await.hidden("/console/language")["form_token"].clone();
    let before = books(service).await;
    let mut tried = 0;
    for page in pages_of_the_access_table() {
        if page.method != Method::POST || page.public.as_deref() == Some("everyone") {
            continue;
        }
        for path in paths(&page, &ids) {
            let address = format!("{path}?user_id=victim");
            let refused = post(&visitor, &address, &all_fields(&ids, &path, &proof)).await;
            let expected = if page.public.is_none() { 404 } else { 403 };
            assert_eq!(refused.status, expected, "{address}: {}", refused.text());
            tried += 1;
        }
    }
    assert!(tried > 15, "only {tried}");
    assert_eq!(books(service).await, before);
}

#[tokio::test]
async fn the_role_support_reads_any_account_and_changes_none_by_any_address_or_form() {
    // The history is made while the port needs no proof, on the same database.
    let paying = Paying::start_with(Sqlite, &[&OPEN[..], &webhooks::SETTINGS].concat()).await;
    let ids = victim(&paying, None).await;
    let Paying { service, sandbox, .. } = paying;
    let database = service.database;
    service.app.stop().await;
    let closed = [&settings()[..], &webhooks::SETTINGS].concat();
    let service = Service::start_on(database, &payments::settings(&sandbox, &closed)).await;
    let support = Visitor::of_operators(&service);
    support.sign_in(&operators::token("support")).await;
    let proof = support.get("/console/find").await.hidden("/console/language")["form_token"].clone();
    let before = books(&service).await;
    let (mut tried, mut wrong) = (0, Vec::new());
    for page in pages_of_the_access_table().into_iter().filter(|page| page.public.as_deref() != Some("everyone")) {
        for path in paths(&page, &ids) {
            let address = format!("{path}?user_id=victim&trace_id=call-1&api_key_id=key%20%3C1%3E&id={}", ids.order);
            let shown = match page.method {
                Method::GET => support.get(&address).await,
                _ => post(&support, &address, &all_fields(&ids, &path, &proof)).await,
            };
            let expected: &[u16] = match &page.roles {
                None => &[404],
                Some(roles) if roles.iter().any(|role| role == "support") => &[200, 303],
                Some(_) => &[403],
            };
            if !expected.contains(&shown.status) {
                wrong.push(format!("{} {address}: {}", page.method, shown.status));
            }
            // Nothing that support reads has a form or a link of an action, or the quotas of API keys.
            if shown.status == 200 && shown.html.contains("/console/actions/")
                || shown.html.contains("Quotas of API keys")
            {
                wrong.push(format!("{} {address} offers an action", page.method));
            }
            tried += 1;
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(tried > 40, "only {tried}");
    assert_eq!(books(&service).await, before);
}
