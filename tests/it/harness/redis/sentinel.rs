//! A private master and its replica, with sentinels.

use std::{fmt::Write as _, path::Path, time::Duration};

use futures_util::future::join_all;
use redis::{InfoDict, cmd};
use tokio::time::timeout;

use super::OwnRedis;
use crate::harness::{private_server::free_port, wait::until};

const MASTER_NAME: &str = "billing";
const SENTINELS: usize = 3;
/// On a busy machine, a sentinel that sees a jump of time does nothing for half a minute.
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(90);

pub struct OwnSentinel {
    /// The first master and its replica.
    nodes: [OwnRedis; 2],
    /// The index of the last known master.
    master: usize,
    sentinels: Vec<OwnRedis>,
}

impl OwnSentinel {
    /// Starts sentinels with a long timeout, so that a busy machine causes no failover. Returns when every
    /// sentinel knows the replica and the other sentinels, so that a failover can succeed.
    pub async fn start() -> Self {
        Self::start_missing_master_after(Duration::from_secs(60)).await
    }

    /// Starts sentinels that soon notice a dead or frozen master.
    pub async fn start_watchful() -> Self {
        Self::start_missing_master_after(Duration::from_millis(500)).await
    }

    async fn start_missing_master_after(silence: Duration) -> Self {
        // The first copy to a replica starts at once.
        let arguments = ["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"];
        let nodes = [OwnRedis::start_with(&arguments).await, OwnRedis::start_with(&arguments).await];
        replicate(&nodes).await;
        let command = |folder: &Path, port: u16| sentinel_command(folder, port, &nodes[0].addr(), silence);
        let sentinels = join_all((0..SENTINELS).map(|_| OwnRedis::start_as(free_port, command))).await;
        until("sentinels know each other and the replica", async || {
            join_all(sentinels.iter().map(knows_all)).await.iter().all(|all| *all)
        })
        .await;
        Self { nodes, master: 0, sentinels }
    }

    pub fn sentinel_addrs(&self) -> Vec<String> {
        self.sentinels.iter().map(OwnRedis::addr).collect()
    }

    /// The name under which the sentinels know the master.
    pub fn master_name(&self) -> &'static str {
        MASTER_NAME
    }

    /// The master after the last [`Self::until_failed_over`].
    pub fn master(&self) -> &OwnRedis {
        &self.nodes[self.master]
    }

    /// Kills the master. The sentinels notice it.
    pub fn kill_master(&self) {
        self.master().kill();
    }

    /// Asks the sentinels for a failover although the master is healthy.
    pub async fn failover(&self) {
        let mut connection = self.sentinels[0].connection().await;
        until("a sentinel agrees to a failover", async || {
            let asked = cmd("SENTINEL").arg("FAILOVER").arg(MASTER_NAME).query_async::<()>(&mut connection).await;
            asked.is_ok()
        })
        .await;
    }

    /// Waits until every sentinel names the other node as master, and that node has the role of a
    /// master.
    pub async fn until_failed_over(&mut self) {
        let other = 1 - self.master;
        let addr = self.nodes[other].addr();
        let failed_over = async {
            loop {
                let named = join_all(self.sentinels.iter().map(master_named_by)).await;
                if named.iter().all(|named| *named == addr) && role(&self.nodes[other]).await == "master" {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(FAILOVER_TIMEOUT, failed_over).await.expect("the sentinels fail over");
        self.master = other;
    }
}

/// Makes the second node the replica of the first, and waits for its first copy.
async fn replicate([master, replica]: &[OwnRedis; 2]) {
    let addr = master.addr();
    let (host, port) = addr.split_once(':').unwrap();
    let mut connection = replica.connection().await;
    let () = cmd("REPLICAOF").arg(host).arg(port).query_async(&mut connection).await.unwrap();
    until("the replica follows", async || {
        let info: InfoDict = cmd("INFO").arg("replication").query_async(&mut connection).await.unwrap();
        info.get("master_link_status") == Some("up".to_owned())
    })
    .await;
}

/// Writes the configuration file of a sentinel. The sentinel keeps its state in it.
fn sentinel_command(folder: &Path, port: u16, master: &str, silence: Duration) -> Vec<String> {
    let master = master.replace(':', " ");
    let quorum = SENTINELS / 2 + 1;
    let mut lines = format!("port {port}\nbind 127.0.0.1\ndir {}\n", folder.display());
    writeln!(lines, "sentinel monitor {MASTER_NAME} {master} {quorum}").unwrap();
    writeln!(lines, "sentinel down-after-milliseconds {MASTER_NAME} {}", silence.as_millis()).unwrap();
    writeln!(lines, "sentinel failover-timeout {MASTER_NAME} 3000").unwrap();
    let file = folder.join("sentinel.conf");
    std::fs::write(&file, lines).unwrap();
    vec!["redis-server".to_owned(), file.display().to_string(), "--sentinel".to_owned()]
}

async fn knows_all(sentinel: &OwnRedis) -> bool {
    let mut connection = sentinel.connection().await;
    let known = |what: &str| cmd("SENTINEL").arg(what).arg(MASTER_NAME).to_owned();
    let others: Vec<redis::Value> = known("SENTINELS").query_async(&mut connection).await.unwrap();
    let replicas: Vec<std::collections::HashMap<String, String>> =
        known("REPLICAS").query_async(&mut connection).await.unwrap();
    // A sentinel can't promote a replica that it has not asked yet.
    others.len() == SENTINELS - 1 && replicas.len() == 1 && replicas[0]["master-link-status"] == "ok"
}

async fn master_named_by(sentinel: &OwnRedis) -> String {
    let mut connection = sentinel.connection().await;
    let mut question = cmd("SENTINEL");
    question.arg("GET-MASTER-ADDR-BY-NAME").arg(MASTER_NAME);
    let (host, port): (String, String) = question.query_async(&mut connection).await.unwrap();
    format!("{host}:{port}")
}

/// `master` or `slave`.
async fn role(node: &OwnRedis) -> String {
    let info: InfoDict = cmd("INFO").arg("replication").query_async(&mut node.connection().await).await.unwrap();
    info.get("role").unwrap()
}
