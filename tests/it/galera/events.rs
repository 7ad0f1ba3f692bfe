//! Events that two nodes write at once.

use std::{collections::BTreeMap, ops::Range};

use billing_service::{sandbox::Switches, service::proto::BillingEvent};
use chrono::Utc;
use futures_util::future::join_all;

use super::{
    pairs::{definite, two_servers},
    shared,
};
use crate::{
    events::{all, data, feed::assert_readers_miss_nothing, read_on},
    harness::{
        Service,
        payments::{failed, sandbox, settings, signed, success},
    },
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_beside_writers_on_two_nodes_miss_nothing() {
    let [one, other] = two_servers(shared().await, &[]).await;
    assert_readers_miss_nothing(&one, &other).await;
}

const USERS: usize = 6;
const ORDERS: usize = 8;

fn order_of(user: &str, number: usize) -> String {
    format!("{user}-{number}")
}

/// Every other order fails.
fn outcome_of(number: usize) -> &'static str {
    if number.is_multiple_of(2) { "recharge.failed" } else { "recharge.succeeded" }
}

/// Reports the outcome of an order to a server until there is an answer.
async fn report(server: &Service, user: &str, number: usize) {
    let order = order_of(user, number);
    let callback = match outcome_of(number) {
        "recharge.failed" => failed(&order, &order, 5.0),
        _ => success(&order, &order, 5.0),
    };
    let reported = definite(|| {
        let (mut client, callback) = (server.internal.clone(), callback.clone());
        async move { client.recharge_callback(signed(callback, Utc::now())).await }
    });
    reported.await.unwrap();
}

/// Reads the feed of a node until it has all events.
async fn read_all(server: &Service) -> Vec<BillingEvent> {
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    while seen.len() < USERS * ORDERS {
        let (events, next) = read_on(&server.internal, &cursor, 7).await;
        seen.extend(events);
        cursor = next;
    }
    seen
}

/// payment-service reports each outcome to both nodes at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_and_credited_orders_of_two_nodes_are_in_the_feed_once_and_in_order() {
    let sandbox = sandbox(Switches::default()).await;
    let cluster = shared().await;
    let [one, other] = two_servers(cluster, &settings(&sandbox, &[])).await;
    let users: Vec<String> = (0..USERS).map(|user| format!("u{user}")).collect();
    for user in &users {
        for number in 0..ORDERS {
            one.database.pending_order(&order_of(user, number), user, 5).await;
        }
    }
    cluster.catch_up().await;
    let report_all = async |orders: Range<usize>| {
        let writers = users.iter().map(|user| {
            let (one, other, orders) = (&one, &other, orders.clone());
            async move {
                for number in orders {
                    tokio::join!(report(one, user, number), report(other, user, number));
                }
            }
        });
        join_all(writers).await;
    };
    // Nobody reads at first, so that positions are given to events of both nodes at once.
    report_all(0..ORDERS / 2).await;
    let rest = report_all(ORDERS / 2..ORDERS);
    let ((), first, second) = tokio::join!(rest, read_all(&one), read_all(&other));
    assert_eq!(first, second, "the feed of each node");
    assert_eq!(first, all(&one.internal).await, "no reader got an event twice");
    let mut by_user: BTreeMap<&str, Vec<(String, &str)>> = BTreeMap::new();
    for event in &first {
        let order = data(event)["order_id"].as_str().unwrap().to_owned();
        by_user.entry(&event.user_id).or_default().push((order, &event.r#type));
    }
    for user in &users {
        let expected: Vec<_> = (0..ORDERS).map(|number| (order_of(user, number), outcome_of(number))).collect();
        assert_eq!(by_user[user.as_str()], expected);
    }
    one.assert_audit_is_clean().await;
}
