//! The entries that a stopped server leaves in Redis.

use std::collections::BTreeMap;

use futures_util::future::join_all;

use super::servers::{beside, call, check};
use crate::harness::{Database, MySql, Service, caller::Client, charge, process::ServerProcess};

const USERS: usize = 40;

/// Version, balance and used units of each account in the database.
async fn stored(database: &Database) -> BTreeMap<String, [String; 3]> {
    let from = "FROM user_balance JOIN free_quota USING (user_id) WHERE service_name = 'asset'";
    let columns = ["user_balance.user_id", "user_balance.version", "MICROS(balance)", "used_quota"];
    let rows = database.rows(&columns, from).await;
    let row = |row: Vec<String>| {
        let [user, version, micros, used] = <[String; 4]>::try_from(row).unwrap();
        let micros = micros.split('.').next().unwrap().to_owned();
        (user, [version, micros, used])
    };
    rows.into_iter().map(row).collect()
}

/// The same values in Redis.
async fn cached(database: &Database) -> BTreeMap<String, [String; 3]> {
    let hashes = database.redis.as_ref().unwrap().hashes("billing:*:account").await;
    let row = |(key, hash): (String, BTreeMap<String, String>)| {
        let quota = hash.iter().find(|(field, _)| field.ends_with(":asset")).unwrap().1;
        let used = quota.split(' ').nth(1).unwrap().to_owned();
        let micros = (hash["balance"].parse::<f64>().unwrap() * 1e6).round().to_string();
        (key.split(['{', '}']).nth(1).unwrap().to_owned(), [hash["version"].clone(), micros, used])
    };
    hashes.into_iter().map(row).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_server_leaves_redis_equal_to_the_database() {
    let database = Database::create(MySql).await;
    let conf = database.config_file(&[]);
    let users: Vec<String> = (0..USERS).map(|number| format!("u{number}")).collect();
    let setup = Service::start_on(beside(&database), &[]).await;
    join_all(users.iter().map(|user| setup.adjust(user, 20.0))).await;
    setup.app.stop().await;
    for _ in 0..3 {
        let process = ServerProcess::start_beside(&conf).await;
        let client = Client::connect(process.grpc.clone()).await.unwrap();
        join_all(users.iter().map(|user| check(&client, call(user)))).await;
        let charges = join_all((0..10 * USERS).map(|number| {
            let mut client = client.clone();
            let user = &users[number % USERS];
            async move { client.deduct_quota(charge(user, "asset", 37)).await.is_ok() }
        }));
        let charges = charges.await;
        process.terminate();
        assert!(charges.iter().any(|made| *made));
        assert_eq!(tokio::task::spawn_blocking(|| process.wait()).await.unwrap(), Some(0));
        // An entry whose load lost against a change may be missing.
        let (cached, mut stored) = (cached(&database).await, stored(&database).await);
        assert!(cached.len() > USERS / 2, "{} are cached", cached.len());
        stored.retain(|user, _| cached.contains_key(user));
        assert_eq!(cached, stored);
    }
}
