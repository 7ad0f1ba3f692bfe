//! A database stores its currency and its time zone. Several databases may share one Redis.

use billing_service::{app, service::proto::CheckQuotaRequest};
use redis::AsyncCommands;
use rstest::rstest;

use crate::{
    cache::processes::servers::{until_cached, with_redis},
    harness::{
        Backend, Database, MySql, Service, Sqlite,
        process::{CRON, SERVER, run},
        redis::OwnRedis,
        wait::until,
    },
};

#[rstest]
#[case("billing.currency", "USD", "CNY", "set billing.currency to CNY")]
#[case("billing.timezone", "Europe/Berlin", "Asia/Shanghai", "set billing.timezone to Asia/Shanghai")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_with_another_currency_or_zone_is_refused_and_names_the_key(
    #[values(MySql, Sqlite)] on: Backend,
    #[case] key: &str,
    #[case] other: &str,
    #[case] own: &str,
    #[case] advice: &str,
) {
    let service = Service::start(on).await;
    service.adjust("u", 100.0).await;
    let Service { database, app, .. } = service;
    app.stop().await;
    let before = database.identity().await;
    let conf = database.config_file(&[(key, other)]);
    let conf = conf.to_str().unwrap();
    // Commands that end by themselves come first.
    for (binary, arguments) in [
        (SERVER, &["-conf", conf, "--migrate-only"][..]),
        (CRON, &["-conf", conf, "--once", "audit"]),
        (CRON, &["-conf", conf, "--once", "audit", "--dry-run"]),
        (CRON, &["-conf", conf, "--list"]),
        (CRON, &["-conf", conf]),
        (SERVER, &["-conf", conf]),
    ] {
        let refused = run(binary, arguments, &[]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{arguments:?}: {said}");
        for part in [format!("config key {key}: is {other}"), format!("are of {own}"), advice.to_owned()] {
            assert!(said.contains(&part), "{arguments:?}: {part} in {said}");
        }
    }
    assert_eq!(database.identity().await, before, "a refused start changes nothing");
    let service = Service::start_on(database, &[(key, own)]).await;
    assert_eq!(service.account("u").await.balance, 100.0);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_existing_database_gets_the_configured_values_and_keeps_its_id(#[values(MySql, Sqlite)] on: Backend) {
    let database = Database::create(on).await;
    let yen = [("billing.currency", "JPY"), ("billing.timezone", "Asia/Tokyo")];
    let store = app::connect(&database.config(&[])).await.unwrap();
    app::close(&*store).await;
    // The state of a release without identities.
    database.execute("DELETE FROM database_identity").await;
    // Concurrent starts agree on one identity.
    let starts = futures_util::future::join_all((0..4).map(|_| async {
        let store = app::connect(&database.config(&yen)).await.unwrap();
        app::close(&*store).await;
    }));
    starts.await;
    let [id, currency, zone] = database.identity().await;
    assert_eq!((currency.as_str(), zone.as_str()), ("JPY", "Asia/Tokyo"));
    let service = Service::start_on(database, &yen).await;
    assert_eq!(service.account("u").await.currency, "JPY");
    assert_eq!(service.database.identity().await[0], id);
}

/// A check of 10 units at the price of the service.
async fn check(service: &Service, user: &str) -> (bool, f64) {
    let request = CheckQuotaRequest {
        user_id: user.into(),
        service_name: "asset".into(),
        count: 1_010,
        api_key_id: "k".into(),
        ..Default::default()
    };
    let reply = service.internal.clone().check_quota(request).await.unwrap().into_inner();
    (reply.allowed, reply.balance)
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_databases_on_one_redis_do_not_answer_for_each_other(
    #[values(MySql, Sqlite)] one: Backend,
    #[values(MySql, Sqlite)] other: Backend,
) {
    let redis = OwnRedis::start().await;
    let mut services = Vec::new();
    for on in [one, other] {
        let database = with_redis(Database::create(on).await, Some(redis.database()));
        services.push(Service::start_on(database, &[("billing.rate_limits.user.hour", "4")]).await);
    }
    let [a, b] = &services[..] else { panic!("there are two services") };
    let users = ["u", "v"];
    for user in users {
        // The checks store entries in Redis.
        assert_eq!(check(a, user).await, (false, 0.0));
        a.adjust(user, 10.0).await;
        until_cached(&a.database, user, "10").await;
    }
    // Before B has any entry, and after that.
    for _ in 0..2 {
        assert_eq!(check(a, "u").await, (true, 10.0));
        assert_eq!(check(b, "u").await, (false, 0.0));
    }
    // Each service allows four calls per hour, and does not count the calls of the other one.
    assert!(check(a, "u").await.0);
    assert!(!check(a, "u").await.0, "the fifth call of the hour");
    b.adjust("u", 20.0).await;
    until_cached(&b.database, "u", "20").await;
    assert_eq!(check(b, "u").await, (true, 20.0), "the third call at B");

    // Each service only compares, shows and drops its own entries.
    let (of_a, of_b) = (a.database.cache_prefix().await, b.database.cache_prefix().await);
    let accounts = async |prefix: &str| redis.hashes(&format!("{prefix}*:account")).await;
    let before = accounts(&of_a).await;
    assert_eq!((before.len(), accounts(&of_b).await.len()), (users.len(), 1));
    let entries = redis.hashes(&format!("{of_b}*")).await.into_keys().filter(|key| !key.ends_with("rate")).count();
    let conf = b.database.config_file(&[]);
    let compared = run(CRON, &["-conf", conf.to_str().unwrap(), "--once", "reconcile-cache"], &[]);
    let printed = String::from_utf8_lossy(&compared.stdout).into_owned();
    assert_eq!(printed, format!("reconcile-cache: {entries} compared, 0 differing, 0 repaired\n"), "{compared:?}");

    // The marker belongs to another run, so B drops its entries.
    let mut connection = redis.connection().await;
    for prefix in [&of_a, &of_b] {
        let () = connection.hset(format!("{prefix}{{ghost}}:account"), "version", 1).await.unwrap();
    }
    let () = connection.set(format!("{of_b}{{0}}:marker"), "another run").await.unwrap();
    let ghost = async |prefix: &str| accounts(prefix).await.contains_key(&format!("{prefix}{{ghost}}:account"));
    until("B has dropped its entries", async || !ghost(&of_b).await).await;
    assert!(ghost(&of_a).await);
    assert_eq!(accounts(&of_a).await.len(), before.len() + 1);
}
