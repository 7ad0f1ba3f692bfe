//! Webhooks: deliveries over HTTP, in order and at least once.

mod addresses;
mod changes;
pub mod lease;
mod libraries;
mod outages;
pub mod receiver;
pub mod secrets;

use std::collections::{BTreeMap, BTreeSet};

use billing_service::service::proto::{
    ListWebhookDeliveriesRequest, ListWebhooksRequest, PutWebhookReply, PutWebhookRequest, TestWebhookRequest, Webhook,
    WebhookDelivery,
};
use chrono::{DateTime, Utc};
use rstest::rstest;
use serde_json::json;
use uuid::Uuid;

use self::receiver::{Answer, Receiver};
use crate::{
    account_status::set_status,
    harness::{Backend, Database, MySql, Service, Sqlite, caller::Client, wait::until},
};

/// The key of the secrets: 32 bytes.
pub const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
/// Webhooks to receivers of the test.
pub const SETTINGS: [(&str, &str); 2] = [("billing.webhooks.key", KEY), ("billing.webhooks.allow_private", "true")];

pub async fn start(on: Backend) -> Service {
    Service::start_with(on, &SETTINGS).await
}

pub fn put_request(id: &str, url: &str) -> PutWebhookRequest {
    PutWebhookRequest { webhook_id: id.into(), url: url.into(), ..Default::default() }
}

pub async fn put(client: &Client, id: &str, url: &str) -> PutWebhookReply {
    client.clone().put_webhook(put_request(id, url)).await.unwrap().into_inner()
}

/// Asks for a test event.
pub async fn test(client: &Client, id: &str) {
    client.clone().test_webhook(TestWebhookRequest { webhook_id: id.into() }).await.unwrap();
}

pub async fn webhook(client: &Client, id: &str) -> Webhook {
    let listed = client.clone().list_webhooks(ListWebhooksRequest {}).await.unwrap().into_inner();
    listed.webhooks.into_iter().find(|webhook| webhook.webhook_id == id).unwrap()
}

pub async fn deliveries(client: &Client, id: &str, outcome: &str) -> Vec<WebhookDelivery> {
    let request = ListWebhookDeliveriesRequest { webhook_id: id.into(), outcome: outcome.into(), limit: 200 };
    client.clone().list_webhook_deliveries(request).await.unwrap().into_inner().deliveries
}

/// Writes events of a user directly, each with a number.
pub async fn write_events(database: &Database, events: impl IntoIterator<Item = (&str, i64)>) {
    write_events_at(database, events, Utc::now()).await;
}

pub async fn write_events_at(database: &Database, events: impl IntoIterator<Item = (&str, i64)>, at: DateTime<Utc>) {
    let at = match database.backend {
        MySql => format!("'{}'", at.naive_utc()),
        Sqlite => at.timestamp_micros().to_string(),
    };
    let row = |(user, number): (&str, i64)| {
        let (id, data) = (Uuid::now_v7(), json!({"user_id": user, "number": number}));
        let user = if user.is_empty() { "NULL".to_owned() } else { format!("'{user}'") };
        format!("('{id}', 'account.status', {user}, '{data}', {at})")
    };
    let rows: Vec<String> = events.into_iter().map(row).collect();
    let sql = format!("INSERT INTO event (event_id, type, user_id, data, created_at) VALUES {}", rows.join(", "));
    database.execute(&sql).await;
}

/// Fails unless each of these events was accepted, and none of a user before an earlier one of the same user.
pub fn assert_in_order(accepted: &[(String, i64)], expected: &[(&str, i64)]) {
    let mut first: Vec<&(String, i64)> = Vec::new();
    let mut seen = BTreeSet::new();
    for event in accepted {
        if seen.insert(event) {
            first.push(event);
        }
    }
    let by_user = |events: Vec<(&str, i64)>| {
        let mut users: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        for (user, number) in events {
            users.entry(user.to_owned()).or_default().push(number);
        }
        users
    };
    let first = by_user(first.iter().map(|(user, number)| (user.as_str(), *number)).collect());
    assert_eq!(first, by_user(expected.to_vec()));
}

/// The events of several users in turn.
pub fn events_of<'u>(users: &[&'u str], each: i64) -> Vec<(&'u str, i64)> {
    (0..each).flat_map(|number| users.iter().map(move |user| (*user, number))).collect()
}

#[rstest]
#[tokio::test]
async fn an_event_of_the_service_arrives_signed_and_as_json(#[values(MySql, Sqlite)] on: Backend) {
    let (service, receiver) = (start(on).await, Receiver::start().await);
    set_status(&service.internal, "before", "FROZEN").await;
    let made = put(&service.internal, "w", &receiver.url("/a")).await;
    assert!(made.changed && made.secret.starts_with("whsec_"));
    let months =
        PutWebhookRequest { types: vec!["month.closed".into()], ..put_request("months", &receiver.url("/months")) };
    service.internal.clone().put_webhook(months).await.unwrap();
    set_status(&service.internal, "u", "FROZEN").await;
    until("the event arrives", async || !receiver.received("/a").is_empty()).await;
    let received = receiver.received("/a");
    let body = received[0].json();
    assert_eq!((&body["type"], &body["data"]["user_id"]), (&json!("account.status"), &json!("u")));
    assert_eq!((&body["data"]["before"], &body["data"]["after"]), (&json!("ACTIVE"), &json!("FROZEN")));
    assert_eq!(body["id"], received[0].header("webhook-id"));
    assert_eq!(body.as_object().unwrap().len(), 4);
    let age = Utc::now().timestamp() - received[0].header("webhook-timestamp").parse::<i64>().unwrap();
    assert!((0..60).contains(&age), "{age}");
    assert!(received[0].header("webhook-signature").starts_with("v1,"));
    assert_eq!(received[0].header("content-type"), "application/json");

    // The list shows the attempt, and the webhook is up to date.
    until("the attempt is saved", async || !deliveries(&service.internal, "w", "").await.is_empty()).await;
    let shown = &deliveries(&service.internal, "w", "accepted").await[0];
    assert_eq!(
        (shown.event_id.as_str(), shown.status, shown.user_id.as_str()),
        (body["id"].as_str().unwrap(), 200, "u")
    );
    until("nothing waits", async || webhook(&service.internal, "w").await.behind == 0).await;
    assert_eq!(webhook(&service.internal, "w").await.state, "active");
    until("the other has passed it", async || webhook(&service.internal, "months").await.behind == 0).await;
    assert!(receiver.received("/months").is_empty(), "another type");
    assert_eq!(receiver.received("/a").len(), 1, "the event before the webhook is not sent");
    let metrics = service.metrics().await;
    assert!(metrics.contains("\nbilling_webhook_delivered_total 1\n"), "{metrics}");
}

#[rstest]
#[tokio::test]
async fn events_of_many_users_arrive_in_their_orders_at_several_receivers(#[values(MySql, Sqlite)] on: Backend) {
    let (service, receiver) = (start(on).await, Receiver::start().await);
    let paths = ["/a", "/b", "/c"];
    for path in paths {
        put(&service.internal, &path[1..], &receiver.url(path)).await;
    }
    let users: Vec<String> = (0..40).map(|user| format!("u{user}")).collect();
    let users: Vec<&str> = users.iter().map(String::as_str).chain([""]).collect();
    let events = events_of(&users, 10);
    write_events(&service.database, events.iter().copied()).await;
    for path in paths {
        until("all arrive", async || receiver.received(path).len() >= events.len()).await;
        assert_in_order(&receiver.accepted(path), &events);
        assert_eq!(receiver.received(path).len(), events.len(), "each once");
    }
    // The connections are used again.
    assert!(receiver.connections() < 100, "{}", receiver.connections());
    // The list is bounded, and shows the newest ones.
    until("all is saved", async || webhook(&service.internal, "a").await.behind == 0).await;
    assert_eq!(deliveries(&service.internal, "a", "").await.len(), 100);
}

#[rstest]
#[tokio::test]
async fn an_event_is_sent_once_more_and_a_test_is_sent_with_the_trace_of_its_call(
    #[values(MySql, Sqlite)] on: Backend,
) {
    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    let (service, receiver) = (start(on).await, Receiver::start().await);
    put(&service.internal, "w", &receiver.url("/a")).await;
    set_status(&service.internal, "u", "FROZEN").await;
    until("the event arrives", async || !receiver.received("/a").is_empty()).await;
    let id = receiver.received("/a")[0].header("webhook-id").to_owned();
    let post = async |path: &str, body: String| {
        let url = format!("http://{}/internal/v1/billing/webhooks/w/{path}", service.app.grpc_addr);
        let response = service
            .http
            .post(url)
            .header("traceparent", PARENT)
            .header("tracestate", "vendor=1")
            .body(body)
            .send()
            .await
            .unwrap();
        (response.status().as_u16(), response.json::<serde_json::Value>().await.unwrap())
    };
    assert_eq!(post("redeliver", json!({"event_id": id}).to_string()).await.0, 200);
    until("it arrives again", async || receiver.received("/a").len() == 2).await;
    let (status, tested) = post("test", "{}".into()).await;
    assert_eq!(status, 200);
    until("the test arrives", async || receiver.received("/a").len() == 3).await;
    let received = receiver.received("/a");
    assert_eq!((received[1].header("webhook-id"), &received[1].body), (id.as_str(), &received[0].body));
    assert_eq!(received[2].header("webhook-id"), tested["event_id"]);
    assert_eq!(received[2].json()["type"], "webhook.test");
    for asked in &received[1..] {
        assert_eq!((asked.header("traceparent"), asked.header("tracestate")), (PARENT, "vendor=1"));
    }
    assert!(!received[0].headers.contains_key("traceparent"), "an event belongs to no call");

    // Both were made once, also after the next reads of the table.
    until("they are saved", async || deliveries(&service.internal, "w", "").await.len() == 3).await;
    let listed = deliveries(&service.internal, "w", "").await;
    let users: Vec<_> = listed.iter().map(|made| (made.r#type.as_str(), made.user_id.as_str())).collect();
    assert_eq!(users, [("webhook.test", ""), ("account.status", "u"), ("account.status", "u")]);
    assert_eq!(service.database.rows(&["COUNT(*)"], "FROM webhook_resend").await, [["0"]]);
    for bad in [json!({"event_id": "x"}), json!({"event_id": Uuid::now_v7().to_string()})] {
        assert_eq!(post("redeliver", bad.to_string()).await.0, 400);
    }
    assert_eq!(receiver.received("/a").len(), 3);
}

#[rstest]
#[tokio::test]
async fn a_long_answer_is_dropped_and_accepts_the_event(#[values(Sqlite)] on: Backend) {
    let (service, receiver) = (start(on).await, Receiver::start().await);
    receiver.answer("/a", |_, _| Answer::Body(8 * 1_024 * 1_024));
    put(&service.internal, "w", &receiver.url("/a")).await;
    write_events(&service.database, [("u", 0), ("u", 1)]).await;
    until("both arrive", async || receiver.accepted("/a").len() == 2).await;
    until("both count", async || deliveries(&service.internal, "w", "accepted").await.len() == 2).await;
}
