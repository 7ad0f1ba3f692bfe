//! Warm-up: the accounts that Redis has before the first check.

use std::collections::BTreeSet;

use super::servers::{cached, call, check, make_inactive, pair, until_cached, within_a_second};
use crate::harness::{Database, MySql, Service, charge, wait::until};

/// The users whose accounts Redis has.
async fn warm(database: &Database) -> BTreeSet<String> {
    let hashes = database.redis.as_ref().unwrap().hashes("billing:*:account").await;
    let owner = |key: &String| key.split(['{', '}']).nth(1).unwrap().to_owned();
    hashes.keys().map(owner).collect()
}

/// Some accounts that were active recently, and some that were not.
async fn with_accounts() -> (Service, BTreeSet<String>) {
    let service = Service::start(MySql).await;
    let active: BTreeSet<String> = (0..30).map(|number| format!("active-{number}")).collect();
    for user in &active {
        service.deduct(charge(user, "asset", 1)).await;
    }
    for number in 0..30 {
        service.deduct(charge(&format!("idle-{number}"), "asset", 1)).await;
    }
    make_inactive(&service.database, "idle-%").await;
    (service, active)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_loads_only_recently_active_accounts() {
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
async fn a_flushed_redis_is_filled_with_recently_active_accounts() {
    let (service, active) = with_accounts().await;
    for _ in 0..2 {
        service.database.redis.as_ref().unwrap().flush().await;
        until("the active accounts are there again", async || warm(&service.database).await == active).await;
    }
}

/// The state after a server was killed between a commit and the cache update.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_start_repairs_the_lost_update_of_a_killed_server() {
    let (one, other) = pair(MySql).await;
    one.use_up_free_quota("u", "asset").await;
    one.adjust("u", 5.0).await;
    until_cached(&one.database, "u", "5").await;
    one.database.execute("UPDATE user_balance SET balance = 0.01, version = version + 1 WHERE user_id = 'u'").await;
    let _next = super::servers::second(&one).await;
    until_cached(&one.database, "u", "0.01").await;
    for service in [&one, &other] {
        within_a_second("the check is refused", async || !check(&service.internal, call("u")).await.allowed).await;
    }
    assert_ne!(cached(&one.database, "u", "version").await, None);
}
