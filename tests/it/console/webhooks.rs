//! The pages of webhooks: what they show, the forms of their changes, and who may send them.

use futures_util::future::join_all;
use rstest::rstest;

use super::{OPEN, operators, visitor::Visitor};
use crate::{
    access::pages_of_the_access_table,
    account_status::set_status,
    harness::{Backend, MySql, Service, Sqlite, wait::until},
    webhooks::{
        SETTINGS, deliveries, put,
        receiver::{Answer, Receiver},
        secrets::is_signed_by,
        webhook,
    },
};

const LIST: &str = "/console/webhooks";
const ONE: &str = "/console/webhooks/w";

async fn start(on: Backend) -> Service {
    Service::start_with(on, &[&OPEN[..], &SETTINGS].concat()).await
}

/// Sends the form of a change on a page. Its address is also the beginning of others.
async fn change(visitor: &Visitor, page: &str, fields: &[(&str, &str)]) -> super::visitor::Shown {
    let hidden = visitor.get(page).await.hidden("/console/webhooks\"");
    let hidden = hidden.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    visitor.post(LIST, &hidden.chain(fields.iter().copied()).collect::<Vec<_>>()).await
}

/// The secret that a page shows.
fn secret(html: &str) -> String {
    let shown = html.split("<code id=\"secret\">").nth(1).unwrap_or_else(|| panic!("no secret: {html}"));
    shown.split('<').next().unwrap().to_owned()
}

#[rstest]
#[tokio::test]
async fn an_operator_makes_a_webhook_tests_it_replaces_its_secret_and_deletes_it(#[values(MySql, Sqlite)] on: Backend) {
    let (service, receiver) = (start(on).await, Receiver::start().await);
    let operator = Visitor::of_operators(&service);
    assert!(operator.get(LIST).await.text().contains("There are no webhooks."));
    let url = receiver.url("/a");
    let new = [("webhook_id", "w"), ("url", url.as_str()), ("type.account.status", "on"), ("active", "on")];
    let made = change(&operator, LIST, &new).await;
    assert_eq!((made.status, made.header("cache-control")), (200, "no-store"), "{}", made.html);
    let first = secret(&made.html);
    for page in [LIST, ONE] {
        let shown = operator.get(page).await;
        assert!(shown.status == 200 && !shown.html.contains("whsec_") && shown.text().contains("/a"), "{}", shown.html);
    }
    assert_eq!(webhook(&service.internal, "w").await.types, ["account.status"]);

    // A test event, and an event once more.
    let action = format!("{ONE}/test");
    let tested = operator.submit(ONE, &action, &[]).await;
    assert_eq!((tested.status, tested.header("location")), (303, "/console/webhooks/w?done=tested"));
    until("the test arrives", async || receiver.received("/a").len() == 1).await;
    set_status(&service.internal, "u", "FROZEN").await;
    until("the event arrives", async || receiver.received("/a").len() == 2).await;
    assert!(receiver.received("/a").iter().all(|received| is_signed_by(received, &first)));
    until("both are saved", async || deliveries(&service.internal, "w", "").await.len() == 2).await;
    let shown = operator.get("/console/webhooks/w?done=tested").await;
    assert!(shown.text().contains("The test event will be sent once."), "{}", shown.text());
    assert_eq!(shown.html.matches("class=\"badge good\">accepted 200").count(), 2, "{}", shown.html);
    assert!(shown.attributes("href").contains(&"/console?user_id=u".to_owned()));
    let again = operator.submit(ONE, &format!("{ONE}/redeliver"), &[]).await;
    assert_eq!(again.header("location"), "/console/webhooks/w?done=redelivered");
    until("it arrives again", async || receiver.received("/a").len() == 3).await;
    assert_eq!(receiver.received("/a")[2].header("webhook-id"), receiver.received("/a")[1].header("webhook-id"));

    // A new secret is shown once, and a form that is sent again makes no other one.
    let action = format!("{ONE}/rotate");
    let hidden = operator.get(ONE).await.hidden(&action);
    let fields: Vec<_> = hidden.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let fields = [&fields[..], &[("overlap_hours", "2")]].concat();
    let second = secret(&operator.post(&action, &fields).await.html);
    assert!(second.starts_with("whsec_") && second != first);
    assert!(webhook(&service.internal, "w").await.replaced_secret_until.is_some());
    let repeated = operator.post(&action, &fields).await;
    assert_eq!((repeated.status, repeated.html.contains("whsec_")), (400, false));
    assert!(repeated.text().contains("has changed since this form was shown"), "{}", repeated.text());
    assert_eq!(service.database.rows(&["COUNT(*)"], "FROM audit_event WHERE rpc = 'PutWebhook'").await, [["2"]]);

    // A change, and a change by a form of an earlier state.
    let hidden = operator.get(ONE).await.hidden("/console/webhooks\"");
    let earlier: Vec<_> = hidden.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let paused = operator.post(LIST, &[&earlier[..], &[("url", &url)]].concat()).await;
    assert_eq!((paused.status, paused.header("location")), (303, "/console/webhooks/w?done=saved"), "{}", paused.html);
    let stored = webhook(&service.internal, "w").await;
    assert_eq!((stored.state.as_str(), stored.types.len()), ("paused", 0));
    let stale = operator.post(LIST, &[&earlier[..], &[("url", &url), ("active", "on")]].concat()).await;
    assert!(stale.status == 400 && stale.text().contains("has changed since"), "{}", stale.text());
    assert_eq!(webhook(&service.internal, "w").await.state, "paused");
    let bad = change(&operator, ONE, &[("url", "ftp://a/")]).await;
    assert!(bad.status == 400 && bad.text().contains("URL: must begin with https"), "{}", bad.text());
    assert!(bad.attributes("value").contains(&"ftp://a/".to_owned()), "the form keeps what was entered");
    let empty = change(&operator, ONE, &[("url", "")]).await;
    assert!(empty.status == 400 && empty.text().contains("URL: is required"), "{}", empty.text());

    // It is deleted when that is confirmed.
    let action = format!("{ONE}/delete");
    assert_eq!(operator.submit(ONE, &action, &[]).await.status, 400);
    let deleted = operator.submit(ONE, &action, &[("confirmed", "on")]).await;
    assert_eq!((deleted.status, deleted.header("location")), (303, LIST));
    assert_eq!(operator.get(ONE).await.status, 400);
    let rpcs = service.database.rows(&["rpc"], "FROM audit_event WHERE rpc LIKE '%Webhook' ORDER BY event_id").await;
    let rpcs: Vec<&str> = rpcs.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(
        rpcs,
        ["PutWebhook", "TestWebhook", "RedeliverWebhook", "PutWebhook", "PutWebhook", "DeleteWebhook"],
        "each change is audited"
    );
}

#[rstest]
#[tokio::test]
async fn a_form_that_is_sent_several_times_at_once_counts_once(#[values(MySql, Sqlite)] on: Backend) {
    let service = start(on).await;
    let operator = Visitor::of_operators(&service);
    let send = async |page: &str, action: &str, fields: &[(&str, &str)]| {
        let hidden = operator.get(page).await.hidden(action);
        let hidden: Vec<_> = hidden.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let fields = [&hidden[..], fields].concat();
        let path = action.trim_end_matches('"');
        let answers = join_all((0..6).map(|_| operator.post(path, &fields))).await;
        let (done, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status < 400);
        assert_eq!((done.len(), refused.len()), (1, 5), "{action}");
        (done.into_iter().next().unwrap(), refused)
    };
    let new = [("webhook_id", "w"), ("url", "http://127.0.0.1:1/a"), ("active", "on")];
    let (made, others) = send(LIST, "/console/webhooks\"", &new).await;
    let first = secret(&made.html);
    let is_stale = |answer: &super::visitor::Shown| {
        let text = answer.text();
        text.contains("has changed since this form was shown")
            && text.contains("the new secret exists and was not shown")
    };
    assert!(others.iter().all(is_stale), "no other answer looks as if it had saved it");
    let rotate = format!("{ONE}/rotate");
    let (rotated, others) = send(ONE, &rotate, &[("overlap_hours", "2")]).await;
    assert!(secret(&rotated.html) != first && others.iter().all(is_stale));
    assert_eq!(service.database.rows(&["COUNT(*)"], "FROM audit_event WHERE rpc = 'PutWebhook'").await, [["2"]]);
    let stored = service.database.rows(&["secrets"], "FROM webhook").await;
    let secrets: Vec<(String, Option<i64>)> = serde_json::from_str(&stored[0][0]).unwrap();
    assert_eq!(secrets.len(), 2);
}

#[tokio::test]
async fn a_page_shows_why_a_receiver_does_not_accept() {
    let (service, receiver) = (start(Sqlite).await, Receiver::start().await);
    receiver.answer("/a", |_, _| Answer::Status(410));
    put(&service.internal, "w", &receiver.url("/a")).await;
    set_status(&service.internal, "u", "FROZEN").await;
    until("it has failed", async || webhook(&service.internal, "w").await.state == "failed").await;
    let operator = Visitor::of_operators(&service);
    let shown = operator.get("/console/webhooks/w?outcome=failed").await.text();
    assert!(shown.contains("the receiver answered 410 Gone") && shown.contains("gone 410"), "{shown}");
    let none = operator.get("/console/webhooks/w?outcome=accepted").await.text();
    assert!(none.contains("Nothing was delivered yet."), "{none}");
    receiver.answer("/a", |_, _| Answer::Status(200));
    let hidden = operator.get("/console/webhooks/w?outcome=accepted").await.hidden("/console/webhooks/w/redeliver");
    assert!(!hidden.contains_key("event_id"), "the form without an event");
    let fields: Vec<_> = hidden.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let restarted = operator.post("/console/webhooks/w/redeliver", &fields).await;
    assert_eq!(restarted.header("location"), "/console/webhooks/w?done=restarted");
    until("the event arrives", async || receiver.accepted("/a").len() == 1).await;
    assert_eq!(webhook(&service.internal, "w").await.state, "active");
}

#[tokio::test]
async fn support_sees_webhooks_and_changes_nothing() {
    let settings = [operators::settings(), SETTINGS.to_vec()].concat();
    let service = Service::start_with(Sqlite, &settings).await;
    let by = |role: &str| {
        Visitor::of_operators(&service).with("authorization", &format!("Bearer {}", operators::token(role)))
    };
    let (admin, support) = (by("admin"), by("support"));
    let new = [("webhook_id", "w"), ("url", "http://127.0.0.1:1/hidden-path"), ("active", "on")];
    let made = change(&admin, LIST, &new).await;
    assert_eq!(made.status, 200, "{}", made.html);
    for (page, forms) in [(LIST, 2), (ONE, 6)] {
        let (full, reduced) = (admin.get(page).await, support.get(page).await);
        assert_eq!((full.status, reduced.status), (200, 200));
        // The language has the first form.
        assert_eq!((full.html.matches("<form").count(), reduced.html.matches("<form").count()), (forms, 1), "{page}");
        assert!(full.html.contains("hidden-path") && !reduced.html.contains("hidden-path"), "{page}");
    }
    // Each form is refused to support, although its proof is right, and to an admin without a proof.
    let proof = support.get("/console/find").await.hidden("/console/language")["form_token"].clone();
    let mut refused = 0;
    let forms = pages_of_the_access_table().into_iter().filter(|page| page.path.starts_with(LIST));
    for form in forms.filter(|page| page.method == reqwest::Method::POST) {
        let path = form.path.replace("{webhook_id}", "w");
        let fields = [("form_token", proof.as_str()), ("confirmed", "on"), ("webhook_id", "w"), ("overlap_hours", "1")];
        assert_eq!(support.post(&path, &fields).await.status, 403, "{path}");
        assert_eq!(admin.post(&path, &fields[1..]).await.status, 403, "{path}");
        assert_eq!(admin.post(&path, &[("form_token", "x"), ("confirmed", "on")]).await.status, 403, "{path}");
        refused += 1;
    }
    assert_eq!(refused, 5);
    let calls = service.database.rows(&["COUNT(*)"], "FROM audit_event WHERE rpc LIKE '%Webhook'").await;
    assert_eq!(calls, [["1"]]);
    assert_eq!(service.database.rows(&["COUNT(*)"], "FROM webhook_resend").await, [["0"]]);
}

#[tokio::test]
async fn a_hundred_webhooks_have_two_pages_that_stay_small() {
    let service = start(Sqlite).await;
    for number in 0..100 {
        put(&service.internal, &format!("w{number:02}"), "http://127.0.0.1:1/").await;
    }
    let operator = Visitor::of_operators(&service);
    let first = operator.get(LIST).await;
    assert!(first.html.len() < 100_000 && first.html.matches("<tr>").count() == 51, "{}", first.html.len());
    let next = first.attributes("href").into_iter().find(|href| href.contains("after=")).unwrap();
    assert_eq!(next, "/console/webhooks?after=w49");
    let second = operator.get(&next).await;
    assert!(second.text().contains("w50") && second.text().contains("w99"), "{}", second.text());
    assert!(!second.attributes("href").iter().any(|href| href.contains("after=")));
}
