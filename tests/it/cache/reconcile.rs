//! `cron --once reconcile-cache`: compares Redis with the database.

use std::{
    path::PathBuf,
    process::Output,
    sync::atomic::{AtomicBool, Ordering},
};

use futures_util::future::join_all;
use redis::cmd;
use rstest::rstest;

use super::processes::servers::{
    beside, bind_key, call, check, keyed_call, keyed_charge, metric, second, until_cached, with_redis, within_a_second,
};
use crate::harness::{
    Backend, Database, MySql, Service, Sqlite, charge,
    load::Load,
    process::{CRON, run},
    redis::{OwnCluster, RedisDatabase},
    wait::until,
};

const CLEAN: &str = "0 differing, 0 repaired";

/// Runs the job. Returns its output and its exit code.
async fn reconcile(database: &Database, more: &'static [&str]) -> (String, Option<i32>) {
    let done = compare(database.config_file(&[]), more).await;
    (String::from_utf8(done.stdout).unwrap(), done.status.code())
}

/// Does not block the other tasks of the test.
async fn compare(conf: PathBuf, more: &'static [&str]) -> Output {
    let running = move || {
        let arguments = [&["-conf", conf.to_str().unwrap(), "--once", "reconcile-cache"], more].concat();
        run(CRON, &arguments, &[])
    };
    tokio::task::spawn_blocking(running).await.unwrap()
}

async fn set(redis: &RedisDatabase, key: &str, field: &str, value: &str) {
    let () = cmd("HSET").arg(key).arg(field).arg(value).query_async(&mut redis.connection().await).await.unwrap();
}

/// The keys of one database.
struct Keys(String);

impl Keys {
    async fn of(database: &Database) -> Self {
        Self(database.cache_prefix().await)
    }

    fn account(&self, user: &str) -> String {
        format!("{}{{{user}}}:account", self.0)
    }

    fn api_key(&self) -> String {
        format!("{}{{k}}:api_key", self.0)
    }
}

/// The last result in the metrics of the server.
async fn shown(service: &Service) -> Option<f64> {
    metric(service, "quota_redis_db_diff").await
}

/// A service whose Redis has accounts and an API key.
async fn with_entries() -> Service {
    let service = Service::start(MySql).await;
    bind_key(&service.internal, "requests", 5.0).await;
    for user in ["balance", "held", "status", "quota", "version", "broken", "right"] {
        service.use_up_free_quota(user, "asset").await;
        service.adjust(user, 1.0).await;
        until_cached(&service.database, user, "1").await;
    }
    service.deduct(keyed_charge()).await;
    let redis = service.database.redis.clone().unwrap();
    // A check that runs before the update of the charge reads the database, and does not store the entry.
    until("redis has the key", async || {
        check(&service.internal, keyed_call()).await;
        redis.hashes("billing:*:{k}:api_key").await.len() == 1
    })
    .await;
    service
}

/// Makes every kind of entry wrong. Returns the owners of the wrong entries.
async fn tamper(redis: &RedisDatabase, keys: &Keys) -> [&'static str; 8] {
    let month = redis.hashes("billing:*:?quota?:account").await[&keys.account("quota")]
        .keys()
        .find(|field| field.ends_with(":asset"))
        .unwrap()
        .clone();
    set(redis, &keys.account("balance"), "balance", "1000").await;
    set(redis, &keys.account("held"), "held", "0.25").await;
    set(redis, &keys.account("status"), "status", "FROZEN").await;
    set(redis, &keys.account("quota"), &month, "1000 3 0").await;
    set(redis, &keys.account("version"), "version", "1").await;
    set(redis, &keys.account("broken"), "balance", "much").await;
    let quota = redis.hashes("billing:*:?k?:api_key").await[&keys.api_key()]["requests"].replace(" 5 1 ", " 5 0 ");
    set(redis, &keys.api_key(), "requests", &quota).await;
    for (field, value) in [("version", "7"), ("balance", "5"), ("held", "0"), ("status", "ACTIVE"), ("plan", "-")] {
        set(redis, &keys.account("nobody"), field, value).await;
    }
    ["balance", "held", "status", "quota", "version", "broken", "k", "nobody"]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_entries_are_listed_counted_and_repaired() {
    let service = with_entries().await;
    let (database, redis) = (&service.database, service.database.redis.as_ref().unwrap());
    let (printed, code) = reconcile(database, &[]).await;
    assert!(printed.ends_with(&format!("{CLEAN}\n")) && code == Some(0), "{printed}");
    until("the metric is 0", async || shown(&service).await == Some(0.0)).await;

    let keys = Keys::of(database).await;
    let wrong = tamper(redis, &keys).await;
    let before = redis.hashes("*").await;
    let (tried, code) = reconcile(database, &["--dry-run"]).await;
    assert_eq!(code, Some(1), "{tried}");
    for owner in wrong {
        assert!(tried.lines().any(|line| line.contains(&format!("(\"{owner}\")"))), "{owner} is not listed: {tried}");
    }
    assert!(!tried.contains("right"), "{tried}");
    assert!(tried.ends_with(" 8 differing, 0 repaired\n"), "{tried}");
    assert_eq!(redis.hashes("*").await, before, "a dry run changes nothing");
    assert_eq!(shown(&service).await, Some(0.0));

    let (repaired, code) = reconcile(database, &[]).await;
    assert_eq!(code, Some(0), "{repaired}");
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(|line| line.replace("0 repaired", "8 repaired")).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&repaired), sorted(&tried));
    // 999 too much, a quarter held, a status, 997 too few used, one call of the key, and an unknown user.
    until("the metric shows it", async || shown(&service).await.is_some_and(|shown| shown > 1_996.0)).await;
    for user in ["balance", "held", "status", "quota", "version", "broken", "right"] {
        let reply = check(&service.internal, call(user)).await;
        assert_eq!((reply.balance, reply.free_remaining, reply.reason.as_str()), (1.0, 0, "balance"), "{user}");
    }
    assert!(!redis.hashes("*").await.contains_key(&keys.account("nobody")));

    let (printed, code) = reconcile(database, &[]).await;
    assert!(printed.ends_with(&format!("{CLEAN}\n")) && code == Some(0), "{printed}");
    until("the metric is 0 again", async || shown(&service).await == Some(0.0)).await;
}

/// The state after a server was killed between a commit and the cache update.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reconcile_cache_repairs_a_lost_update() {
    let service = Service::start(MySql).await;
    service.use_up_free_quota("u", "asset").await;
    service.adjust("u", 1.0).await;
    until_cached(&service.database, "u", "1").await;
    service.database.execute("UPDATE user_balance SET balance = 0.04, version = version + 1").await;
    let (printed, code) = reconcile(&service.database, &[]).await;
    assert!(printed.contains(": 0.96 and 0 units") && code == Some(0), "{printed}");
    within_a_second("it is refused", async || !check(&service.internal, call("u")).await.allowed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reconcile_cache_finds_nothing_during_charges() {
    let service = Service::start(MySql).await;
    let other = second(&service).await;
    let servers = [&service, &other].map(|server| format!("http://{}", server.app.grpc_addr));
    let mut load = Load::start(&servers.each_ref().map(String::as_str)).await;
    // Redis gets the updates of accounts that are checked, unless the update queue overflows.
    for user in ["calm", "calm-too"] {
        check(&service.internal, call(user)).await;
    }
    let is_over = AtomicBool::new(false);
    let checking = async {
        let mut users = (0..12).cycle();
        while !is_over.load(Ordering::Relaxed) {
            check(&other.internal, call(&format!("shared-{}", users.next().unwrap()))).await;
        }
    };
    let comparing = async {
        for _ in 0..5 {
            load.acknowledges(200).await;
            let (printed, code) = reconcile(&service.database, &[]).await;
            assert!(printed.ends_with(&format!("{CLEAN}\n")) && code == Some(0), "{printed}");
            assert!(!printed.starts_with("reconcile-cache: 0 compared"), "{printed}");
        }
        is_over.store(true, Ordering::Relaxed);
    };
    tokio::join!(checking, comparing);
    load.finish().await;
    let (printed, code) = reconcile(&service.database, &["--dry-run"]).await;
    assert!(printed.ends_with(&format!("{CLEAN}\n")) && code == Some(0), "{printed}");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reconcile_cache_without_redis_does_nothing(
    #[values(MySql, Sqlite)] on: Backend,
    #[values(&[], &["--dry-run"])] more: &'static [&str],
) {
    let service = Service::start_on(with_redis(Database::create(on).await, None), &[]).await;
    let (printed, code) = reconcile(&service.database, more).await;
    assert_eq!(printed, "reconcile-cache: data.redis is not configured; there is nothing to compare\n");
    assert_eq!(code, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reconcile_cache_fails_if_redis_does_not_answer() {
    let service = Service::start(MySql).await;
    let conf = service.database.config_file(&[("data.redis.addr", "'127.0.0.1:1'")]);
    let failed = compare(conf, &[]).await;
    assert_eq!(failed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("data.redis"), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reconcile_cache_scans_every_node_of_a_cluster() {
    let cluster = OwnCluster::start().await;
    let addrs = cluster.addrs();
    let database = Database::create(MySql).await;
    let database = with_redis(database, Some(RedisDatabase { addr: addrs[0].clone(), db: 0 }));
    let service = Service::start_on(beside(&database), &[("data.redis.mode", "cluster")]).await;
    until("the cluster is up", async || metric(&service, "billing_redis_up").await == Some(1.0)).await;
    let users: Vec<String> = (0..60).map(|number| format!("u{number}")).collect();
    for user in &users {
        service.deduct(charge(user, "asset", 1)).await;
        check(&service.internal, call(user)).await;
    }
    // A check that got a late answer did not store the account.
    let all_cached = async || {
        join_all(users.iter().map(|user| check(&service.internal, call(user)))).await;
        cluster.hashes("billing:*:account").await.len() == users.len()
    };
    until("every account is cached", all_cached).await;
    for node in 0..3 {
        let of_node = cluster.node(node).hashes("billing:*:account").await;
        let (key, _) = of_node.first_key_value().expect("each node has accounts");
        set(&cluster.node(node).database(), key, "balance", "9").await;
    }
    let run = async |more| {
        let done = compare(database.config_file(&[("data.redis.mode", "cluster")]), more).await;
        (String::from_utf8(done.stdout).unwrap(), done.status.code())
    };
    let (printed, code) = run(&[]).await;
    assert!(printed.ends_with("reconcile-cache: 60 compared, 3 differing, 3 repaired\n"), "{printed}");
    assert_eq!((printed.matches(": 9 and 0 units").count(), code), (3, Some(0)), "{printed}");
    until("the metric shows it", async || shown(&service).await == Some(27.0)).await;
    let (printed, code) = run(&["--dry-run"]).await;
    assert_eq!((printed.as_str(), code), ("reconcile-cache: 57 compared, 0 differing, 0 repaired\n", Some(0)));
}
