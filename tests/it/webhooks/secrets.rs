//! The secrets of webhooks: sealed in the database, and replaced with two valid ones.

use std::sync::atomic::{AtomicI64, Ordering};

use base64::{Engine, prelude::BASE64_STANDARD};
use billing_service::service::proto::{PutWebhookRequest, RedeliverWebhookRequest};
use chrono::TimeDelta;
use hmac::{Hmac, KeyInit, Mac};
use rstest::rstest;
use sha2::Sha256;

use super::{
    SETTINGS, deliveries, put, put_request,
    receiver::{Received, Receiver},
    start, webhook, write_events,
};
use crate::harness::{Backend, MySql, Service, Sqlite, wait::until};

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
