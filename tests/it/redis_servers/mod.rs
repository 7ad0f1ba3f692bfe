//! Tests of the Redis servers in the harness.

mod proxy;

use std::{collections::BTreeMap, time::Duration};

use redis::{AsyncCommands, RedisResult, cmd};
use tokio::time::timeout;

use crate::harness::{
    redis::{OwnCluster, OwnRedis, OwnSentinel, RedisDatabase, shared},
    wait::{soon, until},
};

#[tokio::test]
async fn users_of_the_shared_server_do_not_see_each_others_keys() {
    let (one, other) = (shared().await, shared().await);
    assert_eq!(one.addr, other.addr);
    let () = one.connection().await.hset("user:1", "balance", "7").await.unwrap();
    let () = one.connection().await.set("user:2", "no hash").await.unwrap();
    let () = one.connection().await.hset("else:1", "balance", "8").await.unwrap();
    let () = other.connection().await.hset("user:1", "balance", "9").await.unwrap();
    assert_eq!(one.hashes("user:*").await, BTreeMap::from([hash("user:1", "balance", "7")]));
    one.flush().await;
    assert!(one.hashes("*").await.is_empty());
    assert_eq!(other.hashes("*").await, BTreeMap::from([hash("user:1", "balance", "9")]));
}

#[tokio::test]
async fn a_killed_server_restarts_with_its_last_saved_data() {
    let mut server = OwnRedis::start().await;
    let (addr, pid) = (server.addr(), server.pid());
    set(&server, "saved").await;
    let snapshot = server.keep_snapshot().await;
    set(&server, "saved again").await;
    server.save().await;
    set(&server, "not saved").await;

    server.kill_and_start_again().await;
    assert_eq!((server.addr(), server.pid() == pid), (addr.clone(), false));
    assert_eq!(server.hashes("*").await, BTreeMap::from([hash("key", "value", "saved again")]));

    server.restart_with_snapshot(&snapshot).await;
    assert_eq!(server.addr(), addr);
    assert_eq!(server.hashes("*").await, BTreeMap::from([hash("key", "value", "saved")]));
}

#[tokio::test]
async fn a_killed_server_stays_dead_until_it_is_started_again() {
    let mut server = OwnRedis::start().await;
    set(&server, "lost").await;
    server.kill();
    assert!(server.database().try_connection().await.is_err());
    server.start_again().await;
    assert!(server.hashes("*").await.is_empty());
}

#[tokio::test]
async fn a_frozen_server_answers_after_it_is_resumed() {
    let server = OwnRedis::start().await;
    let mut connection = server.connection().await;
    server.signal("STOP");
    let mut asked = tokio::spawn(async move { connection.exists("key").await });
    assert!(timeout(Duration::from_millis(200), &mut asked).await.is_err());
    server.signal("CONT");
    let answer: RedisResult<bool> = soon(asked).await.unwrap();
    assert!(!answer.unwrap());
}

#[tokio::test]
async fn a_small_server_evicts_the_least_recently_used_keys() {
    let server = OwnRedis::start_with(&["--maxmemory", "3mb", "--maxmemory-policy", "allkeys-lru"]).await;
    let mut connection = server.connection().await;
    for key in 0..500 {
        let () = connection.hset(key, "value", "x".repeat(10_000)).await.unwrap();
    }
    assert!((1..500).contains(&server.hashes("*").await.len()));
}

#[tokio::test]
async fn flushes_remove_all_keys_and_scripts() {
    let server = OwnRedis::start().await;
    set(&server, "gone").await;
    server.flushall().await;
    assert!(server.hashes("*").await.is_empty());

    let mut connection = server.connection().await;
    let sha: String = cmd("SCRIPT").arg("LOAD").arg("return 1").query_async(&mut connection).await.unwrap();
    let run = cmd("EVALSHA").arg(sha).arg(0).to_owned();
    assert_eq!(run.query_async(&mut connection).await, Ok(1));
    server.script_flush().await;
    assert_eq!(run.query_async::<i64>(&mut connection).await.unwrap_err().code(), Some("NOSCRIPT"));
}

#[tokio::test]
async fn a_cluster_has_all_slots_and_takes_a_killed_node_back() {
    let mut cluster = OwnCluster::start().await;
    // One key for each node, in this order.
    let keys = ["b", "c", "a"];
    for (node, key) in keys.iter().enumerate() {
        let mut connection = cluster.node(node).connection().await;
        let () = connection.hset(key, "node", node).await.unwrap();
        let moved: RedisResult<()> = connection.hset(keys[(node + 1) % 3], "node", node).await;
        assert_eq!(moved.unwrap_err().code(), Some("MOVED"));
    }
    let all = [hash("b", "node", "0"), hash("c", "node", "1"), hash("a", "node", "2")];
    assert_eq!(cluster.hashes("*").await, BTreeMap::from(all.clone()));

    let addrs = cluster.addrs();
    cluster.kill_and_start_again(1).await;
    assert_eq!(cluster.addrs(), addrs);
    assert_eq!(cluster.hashes("*").await, BTreeMap::from([all[0].clone(), all[2].clone()]));
    let () = cluster.node(1).connection().await.hset("c", "node", 1).await.unwrap();

    cluster.script_flush().await;
    cluster.flushall().await;
    assert!(cluster.hashes("*").await.is_empty());
}

#[tokio::test]
async fn a_cluster_is_whole_again_after_a_frozen_node_is_resumed() {
    let cluster = OwnCluster::start_watchful().await;
    cluster.signal(2, "STOP");
    let mut connection = cluster.node(0).connection().await;
    until("the other nodes notice it", async || {
        let nodes: String = cmd("CLUSTER").arg("NODES").query_async(&mut connection).await.unwrap();
        nodes.contains("fail")
    })
    .await;
    cluster.signal(2, "CONT");
    cluster.until_whole().await;
    let () = cluster.node(2).connection().await.hset("a", "node", 2).await.unwrap();
}

#[tokio::test]
async fn a_replica_takes_over_from_a_killed_master_which_comes_back_as_a_replica() {
    let mut cluster = OwnCluster::start_with_replicas().await;
    let mut connection = cluster.node(1).connection().await;
    let () = connection.hset("c", "node", 1).await.unwrap();
    let copies: i64 = cmd("WAIT").arg(1).arg(10_000).query_async(&mut connection).await.unwrap();
    assert_eq!(copies, 1);
    for _ in 0..2 {
        cluster.fail_over(1).await;
        assert_eq!(cluster.hashes("*").await, BTreeMap::from([hash("c", "node", "1")]));
        cluster.take_back(1).await;
        assert_eq!(cluster.hashes("*").await, BTreeMap::from([hash("c", "node", "1")]));
    }
}

#[tokio::test]
async fn sentinels_make_the_replica_the_master_when_the_master_is_killed() {
    let mut servers = OwnSentinel::start_watchful().await;
    set(servers.master(), "copied").await;
    let mut connection = servers.master().connection().await;
    // Returns when the replica has the value.
    let copies: i64 = cmd("WAIT").arg(1).arg(10_000).query_async(&mut connection).await.unwrap();
    assert_eq!(copies, 1);
    let addr = servers.master().addr();
    servers.kill_master();
    servers.until_failed_over().await;
    assert_ne!(servers.master().addr(), addr);
    assert_eq!(servers.master().hashes("*").await, BTreeMap::from([hash("key", "value", "copied")]));
    set(servers.master(), "written").await;
}

#[tokio::test]
async fn sentinels_fail_over_on_request() {
    let mut servers = OwnSentinel::start().await;
    let addr = servers.master().addr();
    servers.failover().await;
    servers.until_failed_over().await;
    set(servers.master(), "written").await;
    let sentinel = RedisDatabase { addr: servers.sentinel_addrs()[2].clone(), db: 0 };
    let question = cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(servers.master_name()).to_owned();
    let (host, port): (String, String) = question.query_async(&mut sentinel.connection().await).await.unwrap();
    assert_eq!(format!("{host}:{port}"), servers.master().addr());
    assert_ne!(servers.master().addr(), addr);
}

async fn set(server: &OwnRedis, value: &str) {
    let () = server.connection().await.hset("key", "value", value).await.unwrap();
}

fn hash(key: &str, field: &str, value: &str) -> (String, BTreeMap<String, String>) {
    (key.to_owned(), BTreeMap::from([(field.to_owned(), value.to_owned())]))
}
