//! Which accounts are in Redis before anybody asks for them.

use std::collections::BTreeSet;

use super::servers::{cached, call, check, pair, until_cached, was_last_active_two_hours_ago, within_a_second};
use crate::harness::{Database, MySql, Service, charge, wait::until};

/// Whose accounts Redis has.
async fn warm(database: &Database) -> BTreeSet<String> {
    let hashes = database.redis.as_ref().unwrap().hashes("billing:*:account").await;
    let owner = |key: &String| key.split(['{', '}']).nth(1).unwrap().to_owned();
    hashes.keys().map(owner).collect()
}

/// Accounts that were active just now, and some that were not.
async fn with_accounts() -> (Service, BTreeSet<String>) {
    let service = Service::start(MySql).await;
    let active: BTreeSet<String> = (0..30).map(|number| format!("active-{number}")).collect();
    for user in &active {
        service.deduct(charge(user, "asset", 1)).await;
    }
    for number in 0..30 {
        service.deduct(charge(&format!("idle-{number}"), "asset", 1)).await;
    }
    was_last_active_two_hours_ago(&service.database, "idle-%").await;
    (service, active)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_loads_the_accounts_that_were_active_lately_and_no_others() {
    let (service, active) = with_accounts().await;
    let database = super::servers::beside(&service.database);
    service.app.stop().await;
    database.redis.as_ref().unwrap().flush().await;
    let service = Service::start_on(database, &[]).await;
    until("the active accounts are there", async || warm(&service.database).await == active).await;
    service.deduct(charge("active-0", "asset", 1)).await;
    assert_eq!(warm(&service.database).await, active);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_was_emptied_is_filled_with_the_accounts_that_were_active_lately() {
    let (service, active) = with_accounts().await;
    for _ in 0..2 {
        service.database.redis.as_ref().unwrap().flush().await;
        until("the active accounts are there again", async || warm(&service.database).await == active).await;
    }
}

/// As a server leaves Redis that was killed between a commit and its news.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_start_mends_what_a_killed_server_did_not_tell() {
    let (one, other) = pair(MySql).await;
    one.use_up_free_quota("u", "asset").await;
    one.adjust("u", 5.0).await;
    until_cached(&one.database, "u", "5").await;
    one.database.execute("UPDATE user_balance SET balance = 0.01, version = version + 1 WHERE user_id = 'u'").await;
    let _next = super::servers::second(&one).await;
    until_cached(&one.database, "u", "0.01").await;
    for service in [&one, &other] {
        within_a_second("it is refused", async || !check(&service.internal, call("u")).await.allowed).await;
    }
    assert_ne!(cached(&one.database, "u", "version").await, None);
}
