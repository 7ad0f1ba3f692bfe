//! Changes of webhooks by operators: their bounds, their audit events, and cron.

use billing_service::service::{
    proto::{
        DeleteWebhookRequest, ListAuditEventsRequest, ListWebhookDeliveriesRequest, PutWebhookRequest,
        TestWebhookRequest,
    },
    timestamp::Timestamp,
};
use futures_util::future::join_all;
use rstest::rstest;
use serde_json::{Value, json};

use super::{SETTINGS, assert_in_order, events_of, put, put_request, receiver::Receiver, start, webhook, write_events};
use crate::harness::{
    Backend, Database, MySql, Service, Sqlite, code_of,
    process::{CRON, run},
    wait::until,
};

#[rstest]
#[tokio::test]
async fn a_webhook_is_made_changed_and_deleted_and_each_call_leaves_an_audit_event(
    #[values(MySql, Sqlite)] on: Backend,
) {
    let (service, receiver) = (start(on).await, Receiver::start().await);
    let client = &service.internal;
    let made = put(client, "w", &receiver.url("/a")).await;
    let again = put(client, "w", &receiver.url("/a")).await;
    assert!(made.changed && !again.changed && again.secret.is_empty(), "a repeat changes nothing");
    let paused = PutWebhookRequest {
        active: Some(false),
        types: vec!["month.closed".into(), "balance.low".into()],
        ..put_request("w", &receiver.url("/b"))
    };
    client.clone().put_webhook(paused).await.unwrap();
    let stored = webhook(client, "w").await;
    assert_eq!((stored.state.as_str(), stored.types.join(" ")), ("paused", "balance.low month.closed".into()));
    client.clone().test_webhook(TestWebhookRequest { webhook_id: "w".into() }).await.unwrap();
    let delete = DeleteWebhookRequest { webhook_id: "w".into(), ..Default::default() };
    assert!(client.clone().delete_webhook(delete.clone()).await.unwrap().into_inner().changed);
    assert!(!client.clone().delete_webhook(delete).await.unwrap().into_inner().changed);
    for table in ["webhook", "webhook_retry", "webhook_attempt", "webhook_resend"] {
        assert_eq!(service.database.rows(&["COUNT(*)"], &format!("FROM {table}")).await, [["0"]], "{table}");
    }

    let listed = client.clone().list_audit_events(ListAuditEventsRequest::default()).await.unwrap().into_inner();
    let rpcs: Vec<&str> = listed.events.iter().map(|event| event.rpc.as_str()).collect();
    assert_eq!(rpcs, ["DeleteWebhook", "TestWebhook", "PutWebhook", "PutWebhook"]);
    let states = format!("{:?}", listed.events);
    assert!(!states.contains("whsec_") && !states.contains(&made.secret["whsec_".len()..]), "{states}");
}

#[rstest]
#[tokio::test]
async fn a_change_without_a_url_keeps_url_and_types_and_one_with_a_url_replaces_both(
    #[values(MySql, Sqlite)] on: Backend,
) {
    let service = start(on).await;
    let types = vec!["month.closed".to_owned()];
    let made = PutWebhookRequest { types: types.clone(), ..put_request("w", "http://127.0.0.1:1/a") };
    service.internal.clone().put_webhook(made).await.unwrap();
    let paused = PutWebhookRequest { active: Some(false), ..put_request("w", "") };
    let paused = service.internal.clone().put_webhook(paused).await.unwrap().into_inner();
    assert!(paused.changed && paused.secret.is_empty());
    let stored = webhook(&service.internal, "w").await;
    assert_eq!((stored.state.as_str(), stored.url.as_str(), &stored.types), ("paused", "http://127.0.0.1:1/a", &types));

    let post = async |body: Value| service.post("/internal/v1/billing/webhooks", body.to_string()).await;
    let (status, active) = post(json!({"webhook_id": "w", "active": true})).await;
    let shown = &active["webhook"];
    assert_eq!((status, &shown["state"], &shown["types"]), (200, &json!("active"), &json!(types)), "{active}");
    assert_eq!(shown["url"], "http://127.0.0.1:1/a");
    let (status, refused) = post(json!({"webhook_id": "w", "types": ["balance.low"]})).await;
    assert_eq!((status, &refused["metadata"]["field"]), (400, &json!("url")), "{refused}");
    let (status, same) = post(json!({"webhook_id": "w"})).await;
    assert_eq!((status, &same["changed"]), (200, &json!(false)), "{same}");
    let (_, all) = post(json!({"webhook_id": "w", "url": "http://127.0.0.1:1/b"})).await;
    assert_eq!((&all["webhook"]["types"], &all["webhook"]["url"]), (&json!([]), &json!("http://127.0.0.1:1/b")));
}

#[rstest]
#[tokio::test]
async fn a_change_of_a_webhook_that_has_changed_since_is_refused(#[values(MySql, Sqlite)] on: Backend) {
    let service = start(on).await;
    let put = async |change: Value| {
        let mut body = json!({"webhook_id": "w"});
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        service.post("/internal/v1/billing/webhooks", body.to_string()).await
    };
    let refused = |(status, reply): (u16, Value), field: &str| {
        let message = reply["message"].as_str().unwrap_or_default();
        assert_eq!((status, message.starts_with(&format!("{field}:"))), (400, true), "{reply}");
    };
    let new = json!({"url": "http://127.0.0.1:1/", "must_be_new": true});
    let (status, made) = put(new.clone()).await;
    assert_eq!((status, &made["changed"]), (200, &json!(true)), "{made}");
    refused(put(new).await, "must_be_new");
    let seen = made["webhook"]["updated_at"].clone();
    // Five callers have seen the same state.
    let rotation = json!({"rotate_secret": true, "expected_updated_at": seen});
    let rotations = join_all((0..5).map(|_| put(rotation.clone()))).await;
    let (rotated, late): (Vec<_>, Vec<_>) = rotations.into_iter().partition(|(status, _)| *status == 200);
    assert_eq!((rotated.len(), late.len()), (1, 4), "{late:?}");
    for answer in late {
        refused(answer, "expected_updated_at");
    }
    let listed = service.internal_get("/internal/v1/billing/webhooks").await.1;
    let now = listed["webhooks"][0]["updated_at"].as_str().unwrap().to_owned();
    assert_eq!(rotated[0].1["webhook"]["updated_at"], now, "the reply has the time that the list has");
    let pause = json!({"url": "http://127.0.0.1:1/", "active": false, "expected_updated_at": now});
    assert_eq!(put(pause.clone()).await.0, 200);
    refused(put(pause).await, "expected_updated_at");

    let delete = async |seen: &str| {
        let url = format!("http://{}/internal/v1/billing/webhooks/w?expected_updated_at={seen}", service.app.grpc_addr);
        let answer = service.http.delete(url).send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    refused(delete(&now).await, "expected_updated_at");
    let listed = service.internal_get("/internal/v1/billing/webhooks").await.1;
    let (status, deleted) = delete(listed["webhooks"][0]["updated_at"].as_str().unwrap()).await;
    assert_eq!((status, &deleted["changed"]), (200, &json!(true)), "{deleted}");
    let events = service.database.rows(&["COUNT(*)"], "FROM audit_event WHERE rpc LIKE '%Webhook'").await;
    assert_eq!(events, [["4"]], "a refused change leaves no event");
}

#[rstest]
#[tokio::test]
async fn the_events_of_a_pause_follow_after_it(#[values(MySql, Sqlite)] on: Backend) {
    let (service, receiver) = (start(on).await, Receiver::start().await);
    let active = |active| PutWebhookRequest { active: Some(active), ..put_request("w", &receiver.url("/a")) };
    for is_active in [true, false] {
        service.internal.clone().put_webhook(active(is_active)).await.unwrap();
    }
    put(&service.internal, "other", &receiver.url("/other")).await;
    // The deliverer reads the webhooks every second. When it sends to the new one, it knows of the pause.
    write_events(&service.database, [("marker", 0)]).await;
    until("the other is served", async || receiver.received("/other").len() == 1).await;
    let events = events_of(&["a", "b"], 5);
    write_events(&service.database, events.iter().copied()).await;
    until("the other gets all", async || receiver.received("/other").len() == events.len() + 1).await;
    assert!(receiver.accepted("/a").iter().all(|(user, _)| user == "marker"), "sent in the pause");
    service.internal.clone().put_webhook(active(true)).await.unwrap();
    until("all follow", async || receiver.received("/a").len() == events.len() + 1).await;
    assert_in_order(&receiver.accepted("/a"), &[events, vec![("marker", 0)]].concat());
}

#[tokio::test]
async fn a_bad_webhook_is_refused_by_the_name_of_its_field() {
    let service = start(Sqlite).await;
    let good = || put_request("w", "https://example.com/");
    let (before_1970, in_1970) = (Some(Timestamp { seconds: -1, nanos: 0 }), Some(Timestamp { seconds: 1, nanos: 0 }));
    for (bad, field) in [
        (PutWebhookRequest { webhook_id: String::new(), ..good() }, "webhook_id"),
        (PutWebhookRequest { webhook_id: "a b".into(), ..good() }, "webhook_id"),
        (PutWebhookRequest { url: "ftp://a/".into(), ..good() }, "url"),
        (put_request("new", ""), "url"),
        (PutWebhookRequest { types: vec!["balance.low".into()], ..put_request("new", "") }, "url"),
        (PutWebhookRequest { types: vec!["no.such".into()], ..good() }, "types"),
        (PutWebhookRequest { overlap_hours: Some(1), ..good() }, "overlap_hours"),
        (PutWebhookRequest { overlap_hours: Some(721), rotate_secret: true, ..good() }, "overlap_hours"),
        (PutWebhookRequest { expected_updated_at: before_1970, ..good() }, "expected_updated_at"),
        (PutWebhookRequest { expected_updated_at: in_1970, must_be_new: true, ..good() }, "must_be_new"),
    ] {
        let refused = service.internal.clone().put_webhook(bad).await.unwrap_err();
        assert_eq!(code_of(&refused).1, "10009");
        assert!(refused.message().starts_with(&format!("{field}:")), "{}", refused.message());
    }
    let absent = service.internal.clone().test_webhook(TestWebhookRequest { webhook_id: "w".into() }).await;
    assert!(absent.unwrap_err().message().starts_with("webhook_id:"));
    let url = format!("http://{}/internal/v1/billing/webhooks/w", service.app.grpc_addr);
    let deleted = service.http.delete(url).send().await.unwrap();
    assert_eq!(deleted.json::<serde_json::Value>().await.unwrap(), json!({"success": true, "changed": false}));

    // Without a key there are no webhooks.
    let keyless = Service::start(Sqlite).await;
    let refused = keyless.internal.clone().put_webhook(good()).await.unwrap_err();
    assert!(refused.message().contains("billing.webhooks.key_file"), "{}", refused.message());
    let listed = ListWebhookDeliveriesRequest { webhook_id: "w".into(), ..Default::default() };
    let absent = service.internal.clone().list_webhook_deliveries(listed).await.unwrap_err();
    assert_eq!(code_of(&absent).1, "10009", "a list of an unknown webhook is refused");
}

#[rstest]
#[tokio::test]
async fn a_new_webhook_gets_no_event_before_it_however_many_nobody_has_read(#[values(MySql, Sqlite)] on: Backend) {
    let (service, receiver) = (start(on).await, Receiver::start().await);
    let users: Vec<String> = (0..10_001).map(|user| format!("u{user}")).collect();
    for part in users.chunks(1_000) {
        write_events(&service.database, part.iter().map(|user| (user.as_str(), 0))).await;
    }
    put(&service.internal, "w", &receiver.url("/a")).await;
    write_events(&service.database, [("new", 1)]).await;
    until("the new event arrives", async || !receiver.received("/a").is_empty()).await;
    until("nothing waits", async || webhook(&service.internal, "w").await.behind == 0).await;
    assert_eq!(receiver.accepted("/a"), [("new".to_owned(), 1)]);
}

#[rstest]
#[tokio::test]
async fn deliveries_asked_for_at_paused_webhooks_hold_no_other_up(#[values(MySql, Sqlite)] on: Backend) {
    let (service, receiver) = (start(on).await, Receiver::start().await);
    let client = &service.internal;
    for id in ["a", "b"] {
        let paused = PutWebhookRequest { active: Some(false), ..put_request(id, &receiver.url("/paused")) };
        client.clone().put_webhook(paused).await.unwrap();
    }
    put(client, "w", &receiver.url("/w")).await;
    for id in ["a", "b"] {
        for _ in 0..20 {
            client.clone().test_webhook(TestWebhookRequest { webhook_id: id.into() }).await.unwrap();
        }
        let more = client.clone().test_webhook(TestWebhookRequest { webhook_id: id.into() }).await;
        assert_eq!(code_of(&more.unwrap_err()).1, "10009", "they wait, up to a bound");
    }
    client.clone().test_webhook(TestWebhookRequest { webhook_id: "w".into() }).await.unwrap();
    until("the test arrives", async || receiver.received("/w").len() == 1).await;
    assert!(receiver.received("/paused").is_empty());
}

#[tokio::test]
async fn there_are_at_most_a_hundred_webhooks_and_each_gets_its_events() {
    let (service, receiver) = (start(Sqlite).await, Receiver::start().await);
    for number in 0..100 {
        put(&service.internal, &format!("w{number}"), &receiver.url(&format!("/{number}"))).await;
    }
    let more = put_request("more", &receiver.url("/more"));
    assert_eq!(code_of(&service.internal.clone().put_webhook(more).await.unwrap_err()).1, "10009");
    write_events(&service.database, events_of(&["a", "b"], 3)).await;
    for number in 0..100 {
        let path = format!("/{number}");
        until("all arrive", async || receiver.received(&path).len() == 6).await;
    }
}

#[rstest]
#[tokio::test]
async fn cron_delivers_when_no_server_does_and_lists_the_backlog(#[values(MySql, Sqlite)] on: Backend) {
    let database = Database::create(on).await;
    let receiver = Receiver::start().await;
    let service = Service::start_on(database, &SETTINGS).await;
    put(&service.internal, "w", &receiver.url("/a")).await;
    let Service { app, database, .. } = service;
    app.stop().await;
    let events = events_of(&["a", "b"], 40);
    write_events(&database, events.iter().copied()).await;
    let conf = database.config_file(&SETTINGS).display().to_string();
    let cron = async |arguments: &[&str]| {
        let arguments: Vec<String> =
            ["-conf", &conf].iter().chain(arguments).map(|argument| (*argument).to_owned()).collect();
        let output = tokio::task::spawn_blocking(move || {
            run(CRON, &arguments.iter().map(String::as_str).collect::<Vec<_>>(), &[])
        });
        let output = output.await.unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        said
    };
    assert!(receiver.received("/a").is_empty());
    let listed = cron(&["--list"]).await;
    let line = listed.lines().find(|line| line.starts_with("deliver-webhooks")).unwrap();
    assert!(line.contains("20 * * * * *") && line.contains("backlog 80,"), "{line}");
    let said = cron(&["--once", "deliver-webhooks"]).await;
    assert!(said.contains("deliver-webhooks: 80 accepted, 0 attempts failed, 0 retries wait"), "{said}");
    assert_in_order(&receiver.accepted("/a"), &events);
    let preview = cron(&["--once", "deliver-webhooks", "--dry-run"]).await;
    assert!(
        preview.contains("deliver-webhooks: backlog 0, 0 retries wait, 0 users failed, 0 webhooks failed"),
        "{preview}"
    );
    let again = cron(&["--once", "deliver-webhooks"]).await;
    assert!(again.contains("deliver-webhooks: 0 accepted"), "{again}");
    assert_eq!(receiver.received("/a").len(), events.len());
}
