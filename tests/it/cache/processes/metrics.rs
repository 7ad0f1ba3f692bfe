//! The metrics of checks and of the caches.

use rstest::rstest;

use super::servers::{call, check, make_inactive, metric, reads, with_redis};
use crate::harness::{Backend, Database, MySql, Service, Sqlite, charge, redis::OwnRedis, wait::until};

async fn scripts(service: &Service, script: &str) -> f64 {
    let name = format!("redis_lua_script_duration_ms_count{{script=\"{script}\"}}");
    metric(service, &name).await.unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_are_timed_and_an_outage_of_redis_shows() {
    let mut redis = OwnRedis::start().await;
    let database = with_redis(Database::create(MySql).await, Some(redis.database()));
    let service = Service::start_on(database, &[]).await;
    until("redis is up", async || metric(&service, "billing_redis_up").await == Some(1.0)).await;
    service.use_up_free_quota("u", "asset").await;
    make_inactive(&service.database, "u").await;
    redis.flushall().await;

    let before = [scripts(&service, "quota_check").await, scripts(&service, "quota_load").await];
    check(&service.internal, call("u")).await;
    let after = [scripts(&service, "quota_check").await, scripts(&service, "quota_load").await];
    // The near cache reads an old entry again, which may happen at any time.
    assert!(after[0] > before[0], "a miss reads: {before:?} {after:?}");
    assert_eq!(after[1], before[1] + 1.0, "and loads once");
    let updates = scripts(&service, "quota_deduct").await;
    service.adjust("u", 1.0).await;
    until("the update has reached redis", async || scripts(&service, "quota_deduct").await > updates).await;

    redis.kill();
    until("redis is down", async || metric(&service, "billing_redis_up").await == Some(0.0)).await;
    let before = reads(&service, "database").await;
    assert!(check(&service.internal, call("u")).await.allowed);
    until("the database answers", async || reads(&service, "database").await > before).await;
    redis.start_again().await;
    until("redis is up again", async || metric(&service, "billing_redis_up").await == Some(1.0)).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_are_counted_by_their_result_and_timed(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    for (count, times) in [(1, 3), (1_001, 2)] {
        for _ in 0..times {
            service.check("u", "asset", count).await;
        }
    }
    service.adjust("u", 1.0).await;
    service.check("u", "asset", 1_001).await;
    let counted = async |result: &str| {
        let name = format!("billing_quota_check_total{{result=\"{result}\",service=\"asset\"}}");
        metric(&service, &name).await
    };
    assert_eq!(counted("free").await, Some(3.0));
    assert_eq!(counted("insufficient_balance").await, Some(2.0));
    assert_eq!(counted("balance").await, Some(1.0));
    assert_eq!(metric(&service, "quota_check_duration_ms_count").await, Some(6.0));
    assert_eq!(metric(&service, "billing_quota_check_duration_seconds_count").await, Some(6.0));
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_its_metrics_are_absent(#[values(MySql, Sqlite)] on: Backend) {
    let database = with_redis(Database::create(on).await, None);
    let service = Service::start_on(database, &[]).await;
    service.deduct(charge("u", "asset", 1)).await;
    service.check("u", "asset", 1).await;
    until("reads are counted", async || reads(&service, "database").await + reads(&service, "near").await > 0.0).await;
    for name in ["billing_redis_up", "quota_redis_db_diff"] {
        assert_eq!(metric(&service, name).await, None, "{name}");
    }
    assert_eq!(scripts(&service, "quota_check").await, 0.0);
}
