//! The secrets of webhooks: sealed in the database, and replaced with two valid ones.

use std::sync::atomic::{AtomicI64, Ordering};

use base64::{Engine, prelude::BASE64_STANDARD};
use billing_service::{
    app::{self, cron::Job},
    biz::webhooks::secret::SealedSecret,
    service::proto::{DeleteWebhookRequest, PutWebhookRequest, RedeliverWebhookRequest},
};
use chrono::TimeDelta;
use hmac::{Hmac, KeyInit, Mac};
use rstest::rstest;
use sha2::Sha256;
use tokio_util::sync::CancellationToken;

use super::{
    KEY, SETTINGS, deliveries, put, put_request,
    receiver::{Received, Receiver},
    start, webhook, write_events,
};
use crate::{
    cron::{Counted, runner},
    harness::{Backend, Database, MySql, Service, Sqlite, wait::until},
};

/// Whether one of the signatures of a delivery is by this secret.
pub fn is_signed_by(received: &Received, secret: &str) -> bool {
    let key = BASE64_STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
    let message =
        format!("{}.{}.{}", received.header("webhook-id"), received.header("webhook-timestamp"), received.body);
    let mac = Hmac::<Sha256>::new_from_slice(&key).unwrap().chain_update(message);
    let expected = format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()));
    received.header("webhook-signature").split(' ').any(|signature| signature == expected)
}

#[rstest]
#[tokio::test]
async fn a_replaced_secret_signs_beside_the_new_one_for_its_time(#[values(MySql, Sqlite)] on: Backend) {
    let (service, receiver) = (start(on).await, Receiver::start().await);
    let first = put(&service.internal, "w", &receiver.url("/a")).await.secret;
    let rotate = async |overlap_hours| {
        let request = PutWebhookRequest { rotate_secret: true, overlap_hours, ..put_request("w", &receiver.url("/a")) };
        service.internal.clone().put_webhook(request).await.unwrap().into_inner()
    };
    // Sends events until one is signed by exactly these secrets; the deliverer reads them every second.
    let number = AtomicI64::new(0);
    let signed_by = async |secrets: &[&str]| {
        until("an event is signed by these secrets", async || {
            let sent = number.fetch_add(1, Ordering::SeqCst);
            write_events(&service.database, [("u", sent)]).await;
            until("the event arrives", async || receiver.received("/a").len() as i64 == sent + 1).await;
            let received = receiver.received("/a").pop().unwrap();
            received.header("webhook-signature").split(' ').count() == secrets.len()
                && secrets.iter().all(|secret| is_signed_by(&received, secret))
        })
        .await;
    };
    signed_by(&[&first]).await;
    let replaced = rotate(None).await;
    let second = replaced.secret;
    assert!(second != first && replaced.webhook.unwrap().replaced_secret_until.is_some());
    signed_by(&[&second, &first]).await;
    service.clock.advance(TimeDelta::hours(23));
    signed_by(&[&second, &first]).await;
    assert!(webhook(&service.internal, "w").await.replaced_secret_until.is_some());
    service.clock.advance(TimeDelta::hours(1));
    signed_by(&[&second]).await;
    assert!(webhook(&service.internal, "w").await.replaced_secret_until.is_none());
    let third = rotate(Some(0)).await.secret;
    signed_by(&[&third]).await;
}

#[rstest]
#[tokio::test]
async fn a_copy_of_the_database_signs_nothing(#[values(MySql, Sqlite)] on: Backend) {
    let (service, receiver) = (start(on).await, Receiver::start().await);
    let secret = put(&service.internal, "w", &receiver.url("/a")).await.secret;
    put(&service.internal, "v", &receiver.url("/v")).await;
    put(&service.internal, "third", &receiver.url("/third")).await;
    let stored = service.database.rows(&["secrets"], "FROM webhook ORDER BY webhook_id DESC").await;
    let key = secret.strip_prefix("whsec_").unwrap();
    assert!(!stored[0][0].contains(key), "the secret is in the database");
    let sealed: Vec<(String, Option<i64>)> = serde_json::from_str(&stored[0][0]).unwrap();
    let bytes = BASE64_STANDARD.decode(&sealed[0].0).unwrap();
    let plain = BASE64_STANDARD.decode(key).unwrap();
    assert!(!bytes.windows(8).any(|part| plain.windows(8).any(|other| part == other)), "a part of it is");
    let Service { app, database, .. } = service;
    app.stop().await;

    // Another service with the same database and another key.
    let other = "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=";
    let settings = [("billing.webhooks.key", other), SETTINGS[1]];
    let foreign = Service::start_on(database, &settings).await;
    write_events(&foreign.database, [("u", 0)]).await;
    for name in ["w", "v", "third"] {
        until("the delivery fails", async || !deliveries(&foreign.internal, name, "failed").await.is_empty()).await;
        assert_eq!(deliveries(&foreign.internal, name, "").await[0].failure, "secret");
    }
    assert_eq!(receiver.connections(), 0);
    // A new secret ends the failure, although the replaced one is still valid and does not open.
    let rotated = PutWebhookRequest { rotate_secret: true, ..put_request("third", &receiver.url("/third")) };
    let fresh = foreign.internal.clone().put_webhook(rotated).await.unwrap().into_inner().secret;
    // Otherwise the next attempt is seconds away.
    let again = RedeliverWebhookRequest { webhook_id: "third".into(), event_id: String::new() };
    foreign.internal.clone().redeliver_webhook(again).await.unwrap();
    until("the new secret signs", async || receiver.received("/third").len() == 1).await;
    assert!(is_signed_by(&receiver.received("/third")[0], &fresh));
    // The sealed secret of one webhook does not open for another.
    let swap = "UPDATE webhook SET secrets = (SELECT s FROM (SELECT secrets s FROM webhook WHERE webhook_id = 'w') o) \
                WHERE webhook_id = 'v'";
    foreign.database.execute(swap).await;
    let Service { app, database, .. } = foreign;
    app.stop().await;
    let original = Service::start_on(database, &SETTINGS).await;
    original.clock.advance(TimeDelta::hours(1));
    until("its own secret signs", async || receiver.received("/a").len() == 1).await;
    assert!(is_signed_by(&receiver.received("/a")[0], &secret));
    until("the swapped one does not", async || {
        deliveries(&original.internal, "v", "failed").await.iter().filter(|failed| failed.failure == "secret").count()
            > 1
    })
    .await;
    assert!(receiver.received("/v").is_empty());
}

#[rstest]
#[tokio::test]
async fn a_new_key_takes_over_the_secrets_of_an_old_one(#[values(MySql, Sqlite)] on: Backend) {
    const NEW: &str = "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=";
    const OLD: &str = "[MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=]";
    assert_eq!(OLD, format!("[{KEY}]"));
    let (service, receiver) = (start(on).await, Receiver::start().await);
    let first = put(&service.internal, "w", &receiver.url("/a")).await.secret;
    let rotation = PutWebhookRequest { rotate_secret: true, webhook_id: "w".into(), ..Default::default() };
    let second = service.internal.clone().put_webhook(rotation).await.unwrap().into_inner().secret;
    let paused = PutWebhookRequest { active: Some(false), ..put_request("paused", &receiver.url("/paused")) };
    let of_paused = service.internal.clone().put_webhook(paused).await.unwrap().into_inner().secret;
    let stored = async |database: &Database| database.rows(&["secrets"], "FROM webhook ORDER BY webhook_id").await;
    let by_old = stored(&service.database).await;
    let restarted = async |service: Service, settings: &[(&str, &str)]| {
        let Service { app, database, .. } = service;
        app.stop().await;
        Service::start_on(database, &[settings, &SETTINGS[1..]].concat()).await
    };
    let dry_run = async |service: &Service, settings: &[(&str, &str)]| {
        let config = service.database.config(&[settings, &SETTINGS[1..]].concat());
        let runner = runner(config, &service.clock, CancellationToken::new()).await;
        runner.dry_run(Job::DeliverWebhooks, &Counted::all()).await.unwrap().lines[1].clone()
    };
    let both = [("billing.webhooks.key", NEW), ("billing.webhooks.old_keys", OLD)];
    let alone = [("billing.webhooks.key", NEW)];
    assert_eq!(
        dry_run(&service, &both).await,
        "deliver-webhooks: 3 secrets are sealed by an old key, 0 by an unknown one"
    );
    assert_eq!(
        dry_run(&service, &alone).await,
        "deliver-webhooks: 0 secrets are sealed by an old key, 3 by an unknown one"
    );

    // With both keys, each webhook goes on, and each secret is sealed again.
    let service = restarted(service, &both).await;
    write_events(&service.database, [("u", 0)]).await;
    until("the event arrives", async || receiver.received("/a").len() == 1).await;
    until("all are sealed again", async || {
        let now = stored(&service.database).await;
        now.iter().zip(&by_old).all(|(now, old)| now != old)
    })
    .await;
    assert_eq!(
        dry_run(&service, &alone).await,
        "deliver-webhooks: 0 secrets are sealed by an old key, 0 by an unknown one"
    );
    assert!(webhook(&service.internal, "w").await.replaced_secret_until.is_some());

    // Without the old key, the receivers know their secrets.
    let service = restarted(service, &alone).await;
    write_events(&service.database, [("u", 1)]).await;
    until("the event arrives", async || receiver.received("/a").len() == 2).await;
    for received in receiver.received("/a") {
        assert!(is_signed_by(&received, &first) && is_signed_by(&received, &second));
    }
    let active = PutWebhookRequest { active: Some(true), ..put_request("paused", &receiver.url("/paused")) };
    service.internal.clone().put_webhook(active).await.unwrap();
    until("both arrive after the pause", async || receiver.received("/paused").len() == 2).await;
    assert!(receiver.received("/paused").iter().all(|received| is_signed_by(received, &of_paused)));
}

#[rstest]
#[tokio::test]
async fn secrets_that_were_replaced_since_they_were_read_are_not_sealed_again(#[values(MySql, Sqlite)] on: Backend) {
    let service = start(on).await;
    let store = app::connect(&service.database.config(&SETTINGS)).await.unwrap();
    let again = [SealedSecret { sealed: "again".into(), until: None }];
    let stored = async || service.database.rows(&["secrets"], "FROM webhook").await;
    put(&service.internal, "w", "http://127.0.0.1:1/").await;
    let read = store.webhooks().await.unwrap().webhooks.remove(0);
    let rotation = PutWebhookRequest { rotate_secret: true, webhook_id: "w".into(), ..Default::default() };
    service.internal.clone().put_webhook(rotation).await.unwrap();
    let rotated = stored().await;
    assert!(!store.seal_again(&read, &again).await.unwrap());
    assert_eq!(stored().await, rotated, "the secret that was shown still signs");

    let read = store.webhooks().await.unwrap().webhooks.remove(0);
    let delete = DeleteWebhookRequest { webhook_id: "w".into(), ..Default::default() };
    service.internal.clone().delete_webhook(delete).await.unwrap();
    assert!(!store.seal_again(&read, &again).await.unwrap());
    put(&service.internal, "w", "http://127.0.0.1:1/").await;
    let made_anew = stored().await;
    assert!(!store.seal_again(&read, &again).await.unwrap());
    assert_eq!(stored().await, made_anew);

    let read = store.webhooks().await.unwrap().webhooks.remove(0);
    assert!(store.seal_again(&read, &again).await.unwrap());
    assert_eq!(stored().await, [[r#"[["again",null]]"#]]);
    store.close().await;
}

#[rstest]
#[tokio::test]
async fn a_secret_whose_time_is_over_needs_no_key(#[values(MySql, Sqlite)] on: Backend) {
    const NEW: &str = "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=";
    let service = start(on).await;
    put(&service.internal, "w", "http://127.0.0.1:1/").await;
    let rotation = PutWebhookRequest { rotate_secret: true, webhook_id: "w".into(), ..Default::default() };
    service.internal.clone().put_webhook(rotation).await.unwrap();
    let counts = async || {
        let config = service.database.config(&[&[("billing.webhooks.key", NEW)], &SETTINGS[1..]].concat());
        let runner = runner(config, &service.clock, CancellationToken::new()).await;
        runner.dry_run(Job::DeliverWebhooks, &Counted::all()).await.unwrap().lines[1].clone()
    };
    assert!(counts().await.contains("0 secrets are sealed by an old key, 2 by an unknown one"));
    service.clock.advance(TimeDelta::hours(24));
    assert!(counts().await.contains("0 secrets are sealed by an old key, 1 by an unknown one"));
}
