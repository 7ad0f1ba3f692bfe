//! Webhooks that are changed and delivered on two nodes.

use std::sync::Arc;

use billing_service::{
    app,
    biz::{
        jobs::{deliver_webhooks::JOB, runs::Begun},
        values::error::StoreError,
        webhooks::store::Holder,
    },
    data::Store,
    service::proto::{DeleteWebhookRequest, ListWebhooksRequest, PutWebhookRequest, TestWebhookRequest},
};
use chrono::{DateTime, Utc};
use futures_util::future::join_all;

use super::{
    pairs::{definite, two_servers},
    shared,
};
use crate::{
    account_status::set_status,
    harness::{Database, Service, wait::until},
    webhooks::{
        SETTINGS, deliveries,
        lease::{moved_to, run},
        put, put_request,
        receiver::Receiver,
        webhook,
    },
};

const ROUNDS: u64 = 30;

/// Saves a position. Returns whether the owner has the lease.
async fn saves(store: &dyn Store, owner: &str, made_at: DateTime<Utc>, position: u64) -> bool {
    let change = moved_to(position, made_at);
    match store.save_deliveries(&Holder { job: JOB, owner: owner.into() }, &[change]).await {
        Ok(is_held) => is_held,
        // The other node has changed the same rows.
        Err(StoreError::Conflict(_)) => false,
        Err(error) => panic!("{error}"),
    }
}

async fn position(database: &Database) -> u64 {
    database.rows(&["position"], "FROM webhook WHERE webhook_id = 'w'").await[0][0].parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_never_give_the_lease_of_the_deliveries_to_two_deliverers() {
    let cluster = shared().await;
    let services = two_servers(cluster, &SETTINGS).await;
    put(&services[0].internal, "w", "http://127.0.0.1:1/").await;
    let (mut databases, mut stores): (Vec<Database>, Vec<Arc<dyn Store>>) = (Vec::new(), Vec::new());
    for Service { app, database, .. } in services {
        app.stop().await;
        stores.push(app::connect(&database.config(&SETTINGS)).await.unwrap());
        databases.push(database);
    }
    let made_at = stores[0].webhooks().await.unwrap().webhooks[0].created_at;
    let (mut held, mut holder) = (0, None::<(usize, String)>);
    for round in 0..ROUNDS {
        let expire = format!("UPDATE job_lease SET ends_at = '2020-01-01' WHERE job = '{JOB}'");
        databases[round as usize % 2].execute(&expire).await;
        let owners = [0, 1].map(|node| format!("{node}-{round}"));
        let at = |node: u64| 100 + round * 10 + node;
        // The last holder saves beside those that ask for the lease.
        let late = async {
            match &holder {
                Some((node, owner)) => saves(&*stores[*node], owner, made_at, at(5)).await,
                None => false,
            }
        };
        let begins = join_all([0, 1].map(|node| {
            let (store, run) = (&stores[node], run(&owners[node]));
            async move {
                match store.begin_run(&run).await {
                    Ok(begun) => matches!(begun, Begun::Ours { .. }),
                    // The other node has changed the same row.
                    Err(StoreError::Conflict(_)) => false,
                    Err(error) => panic!("{error}"),
                }
            }
        }));
        let (is_late_saved, begun) = tokio::join!(late, begins);
        let count = begun.iter().filter(|is_ours| **is_ours).count();
        assert!(count <= 1, "round {round}: both nodes gave the lease");
        let saved = join_all([0, 1].map(|node| saves(&*stores[node], &owners[node], made_at, at(node as u64)))).await;
        let saving: Vec<usize> = (0..2).filter(|node| saved[*node]).collect();
        assert!(saving.len() <= 1, "round {round}: two holders have saved");
        assert!(!is_late_saved, "round {round}: a holder has saved after the end of its lease");
        holder = saving.first().map(|node| (*node, owners[*node].clone()));
        held += saving.len();
        cluster.catch_up().await;
        for database in &databases {
            if let Some(node) = saving.first() {
                assert_eq!(position(database).await, at(*node as u64), "round {round}");
            }
        }
    }
    assert!(held as u64 > ROUNDS / 2, "{held} of {ROUNDS} rounds had a holder");
    for store in stores {
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhooks_of_two_nodes_are_changed_on_both_and_get_each_event_in_order() {
    const USERS: usize = 6;
    const CHANGES: usize = 10;
    let cluster = shared().await;
    let [one, other] = two_servers(cluster, &SETTINGS).await;
    let receiver = Receiver::start().await;
    let url = receiver.url("/w");
    let url = url.as_str();
    // Both nodes make the same webhook at once, and there is one secret.
    let puts = join_all([&one, &other].map(|server| {
        definite(move || {
            let (mut client, request) = (server.internal.clone(), put_request("w", url));
            async move { client.put_webhook(request).await }
        })
    }));
    let secrets: Vec<String> = puts.await.into_iter().map(|reply| reply.unwrap().secret).collect();
    assert_eq!(secrets.iter().filter(|secret| !secret.is_empty()).count(), 1);
    put(&other.internal, "gone", &receiver.url("/gone")).await;

    let status = |change: usize| if change.is_multiple_of(2) { "FROZEN" } else { "ACTIVE" };
    let change_all = async |servers: [&Service; 2], changes: std::ops::Range<usize>| {
        let writers = (0..USERS).map(|user| {
            let changes = changes.clone();
            async move {
                for change in changes {
                    set_status(&servers[user % 2].internal, &format!("u{user}"), status(change)).await;
                }
            }
        });
        join_all(writers).await;
    };
    let assert_arrived = async |path: &str, changes: usize| {
        let of_users = || {
            let mut received = receiver.received(path);
            received.retain(|received| received.json()["type"] == "account.status");
            received
        };
        until("all arrive", async || of_users().len() >= USERS * changes).await;
        let received = of_users();
        for user in 0..USERS {
            let user = format!("u{user}");
            let told: Vec<_> = received
                .iter()
                .map(|received| received.json()["data"].clone())
                .filter(|data| data["user_id"] == user)
                .map(|data| data["after"].as_str().unwrap().to_owned())
                .collect();
            assert_eq!(told, (0..changes).map(status).collect::<Vec<_>>(), "{user}");
        }
    };
    change_all([&one, &other], 0..CHANGES).await;
    assert_arrived("/w", CHANGES).await;
    assert_arrived("/gone", CHANGES).await;

    // Each node sees the changes of the other one.
    let rotated = PutWebhookRequest { rotate_secret: true, webhook_id: "w".into(), ..Default::default() };
    let rotated = definite(|| {
        let (mut client, request) = (other.internal.clone(), rotated.clone());
        async move { client.put_webhook(request).await }
    });
    assert!(rotated.await.unwrap().secret.starts_with("whsec_"));
    assert!(webhook(&one.internal, "w").await.replaced_secret_until.is_some());
    for server in [&one, &other] {
        let tested = definite(|| {
            let (mut client, webhook_id) = (server.internal.clone(), "w".to_owned());
            async move { client.test_webhook(TestWebhookRequest { webhook_id }).await }
        });
        tested.await.unwrap();
    }
    until("both tests arrive", async || receiver.received("/w").len() == USERS * CHANGES + 2).await;
    let of_tests = async |server: &Service| {
        let shown = deliveries(&server.internal, "w", "accepted").await;
        shown.iter().filter(|delivery| delivery.r#type == "webhook.test").count()
    };
    for server in [&one, &other] {
        until("the tests are saved", async || of_tests(server).await == 2).await;
    }
    let deleted = definite(|| {
        let (mut client, webhook_id) = (one.internal.clone(), "gone".to_owned());
        async move { client.delete_webhook(DeleteWebhookRequest { webhook_id, ..Default::default() }).await }
    });
    assert!(deleted.await.unwrap().changed);
    let listed = other.internal.clone().list_webhooks(ListWebhooksRequest {}).await.unwrap().into_inner();
    assert_eq!(listed.webhooks.iter().map(|webhook| webhook.webhook_id.as_str()).collect::<Vec<_>>(), ["w"]);

    // The deliverer stops, and the other node goes on.
    until("all is saved", async || webhook(&other.internal, "w").await.behind == 0).await;
    one.app.stop().await;
    change_all([&other, &other], CHANGES..2 * CHANGES).await;
    assert_arrived("/w", 2 * CHANGES).await;
    let received: Vec<_> = receiver.received("/w").into_iter().filter(|r| r.json()["type"] != "webhook.test").collect();
    assert_eq!(received.len(), 2 * USERS * CHANGES, "each once");
    other.assert_audit_is_clean().await;
}
