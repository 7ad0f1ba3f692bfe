//! Limits that all processes share in Redis, with the clock of Redis.

use std::{
    mem::replace,
    pin::pin,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use billing_service::{
    biz::{
        limits::rate_limit::{Level, MAX_LIMIT, RateLimiter, RateLimits, Rates},
        values::ids::{ApiKeyId, UserId},
    },
    data::redis::{RedisLayout, RedisRateLimiter},
};
use futures_util::future::join_all;
use proptest::{collection, option, prelude::*, test_runner::TestCaseError};
use redis::{AsyncCommands, aio::MultiplexedConnection, cmd};
use rstest::rstest;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{KEY_MINUTE, USER_MINUTE};
use crate::{
    cache::contract::backends::{Backend, Caches, Cluster, Redis, Sentinel, connect, connect_to, settings_of},
    harness::{
        Database, MySql, Service, http_client,
        process::ServerProcess,
        redis::{OwnCluster, OwnRedis},
        wait::until,
    },
    state_machine::runner,
};

/// The prefix of the keys of the limiters in these tests.
const PREFIX: &str = "billing:00000000-0000-0000-0000-000000000000:";

const TTL: Duration = Duration::from_secs(600);

fn rates(second: u32, minute: u32, hour: u32) -> Rates {
    let limit = |limit: u32| limit.try_into().ok();
    Rates { second: limit(second), minute: limit(minute), hour: limit(hour) }
}

fn number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn fresh_user() -> UserId {
    UserId::from_stored(format!("rated-{}", number()))
}

/// The retry time of a limiter in seconds.
async fn seconds(limiter: &RedisRateLimiter, user: &UserId, key: Option<&ApiKeyId>) -> Option<u64> {
    limiter.take(user, key).await.unwrap().map(|wait| wait.as_secs())
}

#[rstest]
#[tokio::test]
async fn limiters_on_one_redis_share_a_limit_exactly(#[values(Redis, Cluster, Sentinel)] on: Backend) {
    let _turn = Caches::start(on).await;
    let limits = RateLimits { user: rates(0, 0, 30), api_key: Rates::default() };
    let one = RedisRateLimiter::new(connect(on, TTL).await, limits);
    let other = RedisRateLimiter::new(connect(on, TTL).await, limits);
    let (user, key) = (fresh_user(), ApiKeyId::from_stored("k"));
    let takes = (0..40).flat_map(|_| [&one, &other]).map(|limiter| limiter.take(&user, Some(&key)));
    let answers = join_all(takes).await;
    let waits: Vec<Duration> = answers.into_iter().filter_map(Result::unwrap).collect();
    assert_eq!(waits.len(), 80 - 30);
    assert!(waits.iter().all(|wait| (90..=120).contains(&wait.as_secs())), "{waits:?}");
}

#[rstest]
#[tokio::test]
async fn a_request_counts_for_both_user_and_key_or_for_none(#[values(Redis, Cluster, Sentinel)] on: Backend) {
    let _turn = Caches::start(on).await;
    let limits = RateLimits { user: rates(0, 0, 2), api_key: rates(0, 0, 3) };
    let limiter = RedisRateLimiter::new(connect(on, TTL).await, limits);
    // In a cluster, the keys are on all nodes.
    for _ in 0..10 {
        let (one, other, key) = (fresh_user(), fresh_user(), ApiKeyId::from_stored(format!("rated {{{}}}", number())));
        let key = Some(&key);
        assert_eq!(seconds(&limiter, &one, key).await, None);
        assert_eq!(seconds(&limiter, &one, key).await, None);
        // The limit of the user refuses, so the key has one request left.
        assert!((1_700..=1_800).contains(&seconds(&limiter, &one, key).await.unwrap()));
        assert_eq!(seconds(&limiter, &other, key).await, None);
        // The limit of the key refuses, so this user has one request left too.
        assert!((1_100..=1_200).contains(&seconds(&limiter, &other, key).await.unwrap()));
        assert_eq!(seconds(&limiter, &other, None).await, None);
        assert!((1_700..=1_800).contains(&seconds(&limiter, &other, key).await.unwrap()));
    }
}

#[tokio::test]
async fn refused_requests_leave_no_key_and_admitted_ones_a_key_with_a_ttl() {
    let server = OwnRedis::start().await;
    let redis = connect_to(settings_of(RedisLayout::Single, vec![server.addr()], TTL)).await;
    let limiter = RedisRateLimiter::new(redis, RateLimits { user: rates(0, 2, 0), api_key: rates(0, 0, 1) });
    let (user, other, key) = (fresh_user(), fresh_user(), ApiKeyId::from_stored("a{k}%"));
    let begun = Instant::now();
    assert_eq!(seconds(&limiter, &user, Some(&key)).await, None);
    assert!(seconds(&limiter, &other, Some(&key)).await.is_some());
    let kept: Vec<String> = server.hashes("*").await.into_keys().collect();
    assert_eq!(kept, [format!("{PREFIX}{{a%7Bk%7D%25}}:key_rate"), format!("{PREFIX}{{{user}}}:rate")]);
    let mut connection = server.connection().await;
    // One request at one per hour, and one request at two per minute.
    for (key, lasts) in kept.iter().zip([3_600_000, 30_000]) {
        let left: i64 = connection.pttl(key).await.unwrap();
        let passed = i64::try_from(begun.elapsed().as_millis()).unwrap();
        // The TTL is rounded up to milliseconds, plus one.
        assert!(left <= lasts + 1 && left + passed >= lasts - 1, "{left} of {lasts} after {passed}");
    }
}

/// Rates, and the pauses before requests in microseconds.
fn requests() -> impl Strategy<Value = (Rates, Vec<u64>)> {
    let limit = || option::of(prop_oneof![6 => 1..=5_u32, 2 => 1..=100_u32, 1 => 1..=MAX_LIMIT]);
    let rates = (limit(), limit(), limit())
        .prop_map(|(second, minute, hour)| rates(second.unwrap_or(0), minute.unwrap_or(0), hour.unwrap_or(0)))
        .prop_filter("some limit", |rates| !rates.is_empty());
    let pause = prop_oneof![4 => Just(0), 2 => 0..1_000_000_u64, 2 => 0..60_000_000_u64, 1 => 0..4_000_000_000_u64];
    (rates, collection::vec(pause, 1..40))
}

/// The clock of the server in microseconds.
async fn time(connection: &mut MultiplexedConnection) -> u64 {
    let (seconds, micros): (u64, u64) = cmd("TIME").query_async(connection).await.unwrap();
    seconds * 1_000_000 + micros
}

/// Moves time by making the stored level older. Compares the script with the rule at the instant
/// of the count, or at the instants before and after a refusal.
async fn follows_the_rule(
    limiter: &RedisRateLimiter,
    rates: Rates,
    pauses: &[u64],
    connection: &mut MultiplexedConnection,
) -> Result<(), TestCaseError> {
    let user = fresh_user();
    let key = format!("{PREFIX}{{{user}}}:rate");
    let (mut level, mut passed) = (Level::default(), 0);
    for pause in pauses {
        if connection.exists(&key).await.unwrap() {
            let () = connection.hincr(&key, "at", -pause.cast_signed()).await.unwrap();
        }
        passed += pause;
        let before = time(connection).await + passed;
        let answer = limiter.take(&user, None).await.unwrap();
        let after = time(connection).await + passed;
        let by_rule = |at: u64| rates.take(level, Duration::from_micros(at));
        match answer {
            None => {
                let kept: Option<u64> = connection.hget(&key, "at").await.unwrap();
                let at = kept.map_or(before, |at| at + passed);
                prop_assert!((before..=after).contains(&at));
                let next = by_rule(at);
                prop_assert!(next.is_ok(), "admitted, and by the rule {next:?}");
                level = next.unwrap();
                // The level has run out at once.
                let gone = Duration::from_micros(time(connection).await + passed);
                prop_assert!(kept.is_some() || rates.has_run_out(level, gone));
            }
            Some(wait) => {
                let longest = by_rule(before);
                prop_assert!(longest.is_err_and(|longest| wait <= longest), "{wait:?}, by the rule {longest:?}");
                // After the refusal, the rule may admit the request.
                let shortest = by_rule(after).err().unwrap_or_default();
                prop_assert!(wait >= shortest, "{wait:?}, by the rule {shortest:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn the_script_agrees_with_the_rule() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (server, redis, mut connection) = runtime.block_on(async {
        let server = OwnRedis::start().await;
        let redis = connect_to(settings_of(RedisLayout::Single, vec![server.addr()], TTL)).await;
        let connection = server.connection().await;
        (server, redis, connection)
    });
    let play = |(rates, pauses): (Rates, Vec<u64>)| {
        let limiter = RedisRateLimiter::new(redis.clone(), RateLimits { user: rates, api_key: Rates::default() });
        runtime.block_on(follows_the_rule(&limiter, rates, &pauses, &mut connection.clone()))
    };
    runner(200).run(&requests(), play).unwrap();
    runtime.block_on(async { connection.flushall::<()>().await.unwrap() });
    drop(server);
}

/// The gRPC port of a server.
struct Server<'a>(&'a str);

impl Server<'_> {
    async fn check(&self, user: &str, key: &str) -> Value {
        let body = json!({"user_id": user, "service_name": "asset", "count": 1, "api_key_id": key});
        let url = format!("{}/internal/v1/billing/check", self.0);
        let reply = http_client().post(url).body(body.to_string()).send().await.unwrap();
        reply.json().await.unwrap()
    }

    async fn is_allowed(&self, user: &str, key: &str) -> bool {
        let reply = self.check(user, key).await;
        assert!(reply["allowed"] == true || reply["reason"] == "rate limit", "{reply}");
        reply["allowed"] == true
    }

    /// Whether the server counts locally, by its metric.
    async fn is_local(&self) -> bool {
        let metrics = reqwest::get(format!("{}/metrics", self.0)).await.unwrap().text().await.unwrap();
        let local = metrics.lines().find_map(|line| line.strip_prefix("billing_rate_limit_local "));
        local.expect("the metric exists") == "1"
    }
}

/// The outcome of `act`, and whether all servers shared limits the whole time. A server that counts
/// locally shows it for a second, and the metric is read more often.
async fn watched<T>(servers: &[Server<'_>], act: impl Future<Output = T>) -> (T, bool) {
    let mut act = pin!(act);
    let (mut asked, mut is_shared) = (Instant::now(), true);
    loop {
        let outcome = timeout(Duration::from_millis(200), &mut act).await;
        let before = replace(&mut asked, Instant::now());
        let locals = join_all(servers.iter().map(Server::is_local)).await;
        is_shared &= before.elapsed() < Duration::from_secs(1) && locals.iter().all(|is_local| !is_local);
        if let Ok(outcome) = outcome {
            return (outcome, is_shared);
        }
    }
}

/// The outcome of `act` while all servers share limits. On a busy machine, Redis may answer too late, and
/// a server counts locally. Then `act` is repeated with another number.
async fn undisturbed<T>(servers: &[Server<'_>], act: impl AsyncFn(usize) -> T) -> T {
    for attempt in 0..30 {
        let (outcome, is_shared) = watched(servers, act(attempt)).await;
        if is_shared {
            return outcome;
        }
        // Makes the servers ask Redis again, after a pause for the busy machine.
        tokio::time::sleep(Duration::from_millis(300)).await;
        join_all(servers.iter().map(|server| server.check("unlucky", ""))).await;
    }
    panic!("redis never answers in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_on_one_redis_share_a_limit() {
    let limit = [("billing.rate_limits.user.hour", "15")];
    let service = Service::start_on(Database::create(MySql).await, &limit).await;
    let process = ServerProcess::start_beside(&service.database.config_file(&limit)).await;
    let own = format!("http://{}", service.app.grpc_addr);
    let servers = [Server(&own), Server(&process.grpc)];
    let allowed = undisturbed(&servers, async |attempt| {
        let user = format!("u{attempt}");
        let checks = (0..15).flat_map(|_| &servers).map(|server| server.is_allowed(&user, ""));
        join_all(checks).await.into_iter().filter(|is_allowed| *is_allowed).count()
    });
    assert_eq!(allowed.await, 15);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_keeps_limits_in_a_cluster() {
    let cluster = OwnCluster::start().await;
    let mut database = Database::create(MySql).await;
    database.redis = None;
    let addrs = format!("'{}'", cluster.addrs().join(","));
    let changes =
        [("data.redis.addr", addrs.as_str()), ("data.redis.mode", "cluster"), (USER_MINUTE, "2"), (KEY_MINUTE, "3")];
    let service = Service::start_on(database, &changes).await;
    let own = format!("http://{}", service.app.grpc_addr);
    let servers = [Server(&own)];
    let allowed = undisturbed(&servers, async |attempt| {
        let (one, other, key) = (format!("a{attempt}"), format!("b{attempt}"), format!("k{attempt}"));
        let mut allowed = Vec::new();
        for (user, key) in [(&one, &key); 3].into_iter().chain([(&other, &key); 2]).chain([(&other, &String::new()); 2])
        {
            allowed.push(servers[0].is_allowed(user, key).await);
        }
        allowed
    });
    assert_eq!(allowed.await, [true, true, false, true, false, true, false]);
    assert!(!cluster.hashes("billing:*:{a*}:rate").await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_every_process_counts_locally_and_its_metric_shows_it() {
    let mut redis = OwnRedis::start().await;
    let mut database = Database::create(MySql).await;
    database.redis = Some(redis.database());
    let limit = [("billing.rate_limits.user.hour", "3")];
    let service = Service::start_on(database, &limit).await;
    let process = ServerProcess::start_beside(&service.database.config_file(&limit)).await;
    let own = format!("http://{}", service.app.grpc_addr);
    let servers = [Server(&own), Server(&process.grpc)];
    let allowed = undisturbed(&servers, async |attempt| {
        let user = format!("before{attempt}");
        let mut allowed = 0;
        for server in [0, 1, 0, 1, 0, 1] {
            allowed += usize::from(servers[server].is_allowed(&user, "").await);
        }
        allowed
    });
    assert_eq!(allowed.await, 3);

    redis.kill();
    for server in &servers {
        let mut allowed = 0;
        for _ in 0..6 {
            allowed += usize::from(server.is_allowed("meanwhile", "").await);
        }
        assert_eq!(allowed, 3);
        // The metric shows it for a second. A busy machine may miss that.
        until("the server counts locally", async || {
            server.check("anybody", "").await;
            server.is_local().await
        })
        .await;
    }

    redis.start_again().await;
    for server in &servers {
        until("the server shares limits again", async || {
            server.check("again", "").await;
            !server.is_local().await
        })
        .await;
    }
    let allowed = undisturbed(&servers, async |attempt| {
        let user = format!("after{attempt}");
        let checks = (0..5).flat_map(|_| &servers).map(|server| server.is_allowed(&user, ""));
        join_all(checks).await.into_iter().filter(|is_allowed| *is_allowed).count()
    });
    assert_eq!(allowed.await, 3);
}
