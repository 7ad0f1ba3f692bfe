//! The pages of operators, on the internal port.

use reqwest::Method;
use serde_json::Value;

use super::{history, visitor::Visitor};
use crate::{
    access::{pages_of_the_access_table, sha256},
    harness::{Service, Sqlite, payments::Paying},
};

const ROLES: [&str; 6] = ["gateway", "payment", "keys", "support", "admin", "metrics"];

pub fn token(role: &str) -> String {
    format!("a-token-of-the-role-{role}")
}

pub fn settings() -> Vec<(&'static str, &'static str)> {
    let caller = |role: &str| format!("{{name: {role}, roles: [{role}], token_sha256: ['{}']}}", sha256(&token(role)));
    let callers: &'static str = format!("[{}]", ROLES.map(caller).join(", ")).leak();
    [super::OPEN.to_vec(), vec![("server.grpc.auth.callers", callers)]].concat()
}

#[tokio::test]
async fn each_page_admits_the_roles_of_the_access_table_and_no_other() {
    let service = Service::start_with(Sqlite, &settings()).await;
    let (mut wrong, mut cells) = (Vec::new(), 0);
    for page in pages_of_the_access_table().into_iter().filter(|page| page.method == Method::GET) {
        let path = page
            .path
            .replace("{order_id}", "o")
            .replace("{file}", "f")
            .replace("{webhook_id}", "w")
            .replace("{action}", "none")
            .replace("{*path}", "nothing");
        let path = path.replace("{id}", "01a229b3-088f-71d5-949e-fabb08a076de");
        let address = format!("{path}?user_id=u&trace_id=t&api_key_id=k");
        for role in ["none", "forged"].into_iter().chain(ROLES) {
            let session = Visitor::of_operators(&service);
            let mut header = Visitor::of_operators(&service);
            if role != "none" {
                session.sign_in(&token(role)).await;
                header = header.with("authorization", &format!("Bearer {}", token(role)));
            }
            let is_admitted =
                |roles: &Vec<String>| roles.iter().any(|allowed| allowed == role || allowed == "everyone");
            for (visitor, way) in [(&session, "session"), (&header, "header")] {
                let status = visitor.get(&address).await.status;
                // There is no such order, file or charge.
                let is_missing = page.path.contains('{') || page.path == "/console/charge";
                let expected = match &page.roles {
                    None => 404,
                    // REST refuses an unknown webhook as a bad field.
                    Some(roles) if is_admitted(roles) && page.path.contains("{webhook_id}") => 400,
                    Some(roles) if is_admitted(roles) && is_missing => 404,
                    Some(roles) if is_admitted(roles) && page.path == "/console/" => 303,
                    Some(roles) if is_admitted(roles) => 200,
                    Some(_) if ROLES.contains(&role) => 403,
                    Some(_) => 401,
                };
                cells += 1;
                if status != expected {
                    wrong.push(format!("{path} as {role} by {way}: {status}, not {expected}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(cells > 200, "only {cells} cells");
}

#[tokio::test]
async fn an_operator_finds_an_account_a_charge_and_a_top_up() {
    let paying = Paying::start_with(Sqlite, &super::OPEN).await;
    let service = &paying.service;
    history(service, "alice").await;
    let started = paying.recharge("alice", 12.0).await;
    let order = started.order_id;
    let (operator, user) = (Visitor::of_operators(service), Visitor::of(service));
    let first = operator.get("/console").await;
    assert_eq!((first.status, first.header("location")), (303, "/console/find"));
    let find = operator.get("/console/find").await;
    assert_eq!(find.html.matches("<form").count(), 2, "the search and the language: {}", find.html);
    // The pages of an account are those that its user sees.
    for page in ["/console", "/console/usage", "/console/records", "/console/top-ups", "/console/statement"] {
        let path = format!("{page}?user_id=alice");
        let main = |html: &str| {
            let main = html.split("<main").nth(1).unwrap().to_owned();
            // Only the user tops up, so buttons differ, and only the operator follows a trace id.
            let (before, links) = main.split_once("<a ").unwrap_or((&main, ""));
            let links = links.split("<a ").filter_map(|link| link.split_once("</a>")).map(|(link, rest)| {
                let (attributes, text) = link.split_once('>').unwrap();
                if attributes.contains("button") { rest.to_owned() } else { format!("{text}{rest}") }
            });
            format!("{before}{}", links.collect::<String>()).replace("<p></p>", "")
        };
        let (shown, own) = (operator.get(&path).await, user.get(&path).await);
        assert_eq!((shown.status, main(&shown.html)), (200, main(&own.html)), "{page}");
        assert!(!shown.html.contains("/console/top-up?"), "{page}");
    }
    let led = operator.get(&format!("/console/find?id={order}")).await;
    assert_eq!(led.header("location"), format!("/console/top-ups/{order}?user_id=alice"));
    let shown = operator.get(led.header("location")).await;
    assert!(
        shown.status == 200 && shown.text().contains("12.00 CNY") && !shown.html.contains("/pay"),
        "{}",
        shown.html
    );
    paying.press(&started.payment_url, "SUCCESS").await;
    paying.until_order_is(&order, "success").await;
    let (of_operator, own) =
        (operator.get(led.header("location")).await.text(), user.get(led.header("location")).await.text());
    assert!(of_operator.contains("The balance is") && !of_operator.contains("our balance"), "{of_operator}");
    assert!(own.contains("Your balance is") && own.contains("Credited to your balance"), "{own}");
    assert_eq!(operator.get("/console/find?id=none").await.status, 404);
    assert_eq!(operator.post("/console/top-up?user_id=alice", &[("amount", "5")]).await.status, 404);
}

#[tokio::test]
async fn support_sees_no_quotas_of_api_keys() {
    let service = Service::start_with(Sqlite, &settings()).await;
    for (route, body) in [
        ("adjust", r#"{"user_id":"alice","amount":5,"operator":"ann","reason":"r","adjustment_id":"a"}"#),
        ("api-keys/k/quota", r#"{"quota_type":"requests","period":"month","limit":77}"#),
        ("deduct", r#"{"user_id":"alice","service_name":"asset","count":1,"trace_id":"t","api_key_id":"k"}"#),
    ] {
        let url = format!("http://{}/internal/v1/billing/{route}", service.app.grpc_addr);
        let reply = service.http.post(url).bearer_auth(token("admin")).body(body).send().await.unwrap();
        assert_eq!(reply.status(), 200, "{}", reply.text().await.unwrap());
    }
    for (role, sees) in [("support", false), ("admin", true)] {
        let operator = Visitor::of_operators(&service).with("authorization", &format!("Bearer {}", token(role)));
        let shown = operator.get("/console?user_id=alice").await;
        assert_eq!((shown.status, shown.text().contains("Quotas of API keys")), (200, sees), "{role}");
    }
}

#[tokio::test]
async fn a_charge_is_explained_by_the_lines_of_its_price() {
    let service = super::open(Sqlite).await;
    history(&service, "alice").await;
    for trace in ["llm-2", "llm-3", "call-1"] {
        let (_, charge) = service.internal_get(&format!("/internal/v1/billing/transactions/alice/{trace}")).await;
        let text =
            Visitor::of_operators(&service).get(&format!("/console/charge?user_id=alice&trace_id={trace}")).await;
        let (text, html) = (text.text(), text.html);
        let lines = charge["price_lines"].as_array().unwrap();
        assert!(!lines.is_empty(), "{charge}");
        let of_lines = html
            .split("<caption class=\"unseen\">Lines of the price")
            .nth(1)
            .unwrap()
            .split("</table>")
            .next()
            .unwrap();
        assert_eq!(of_lines.matches("<th scope=\"row\">").count(), lines.len() + 1, "the lines and their sum: {text}");
        for line in lines {
            assert!(text.contains(&super::pages::money(&line["amount"])), "{line} is not in {text}");
        }
        let total = format!("Total {}", super::pages::money(&charge["amount"]));
        assert!(text.contains(&total) && text.contains(trace), "{total} is not in {text}");
    }
    let records = Visitor::of_operators(&service).get("/console/records?user_id=alice").await;
    assert!(records.attributes("href").contains(&"/console/charge?trace_id=llm-2&user_id=alice".to_owned()));
    let missing = Visitor::of_operators(&service).get("/console/charge?user_id=bob&trace_id=llm-2").await;
    assert_eq!((missing.status, missing.text().contains("10010")), (404, true));
}

#[tokio::test]
async fn audit_events_are_listed_as_rest_lists_them() {
    let service = super::open(Sqlite).await;
    history(&service, "alice").await;
    service.adjust("bob", 7.0).await;
    for (page, rest) in [("", ""), ("?user_id=bob", "?user_id=bob"), ("?rpc=SetUserLimits", "?rpc=SetUserLimits")] {
        let (_, reply) = service.internal_get(&format!("/internal/v1/billing/audit-events{rest}")).await;
        let shown = Visitor::of_operators(&service).get(&format!("/console/audit-events{page}")).await;
        let ids: Vec<&str> = reply["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event: &Value| event["request_id"].as_str().unwrap())
            .collect();
        let rows = shown.html.split("<tr>").skip(2);
        let listed: Vec<&str> =
            rows.map(|row| row.rsplit("<code>").next().unwrap().split('<').next().unwrap()).collect();
        assert_eq!(listed, ids, "{page}");
        assert!(!ids.is_empty());
    }
}

#[tokio::test]
async fn a_session_of_one_port_is_none_of_the_other() {
    let mut settings = settings();
    settings.retain(|(key, _)| *key != "console");
    let callers = settings.iter().find(|(key, _)| *key == "server.grpc.auth.callers").copied().unwrap();
    let service = Service::start_with(Sqlite, &[super::signing_in(), vec![callers]].concat()).await;
    let operator = Visitor::of_operators(&service);
    assert_eq!(operator.sign_in(&token("admin")).await.status, 303, "the first page leads to the search");
    let sealed = operator.cookie("billing_operator").unwrap();
    let user = Visitor::of(&service);
    user.set_cookie("billing_console", &sealed);
    assert_eq!(user.get("/console").await.status, 401);
    user.sign_in(&super::token("u")).await;
    let other = Visitor::of_operators(&service);
    other.set_cookie("billing_operator", &user.cookie("billing_console").unwrap());
    assert_eq!(other.get("/console/find").await.status, 401);
    assert_eq!(operator.submit("/console/find", "/console/sign-out", &[]).await.status, 303);
    assert_eq!(operator.get("/console/find").await.status, 401);
}
