//! A cluster of one test's own: three masters, each with a third of the slots.

use std::time::Duration;

use futures_util::future::join_all;
use redis::{InfoDict, Value, cmd};

use super::{OwnRedis, place::Hashes};
use crate::harness::{
    private_server::{PORTS, free_port_where, is_free},
    wait::until,
};

const NODES: u16 = 3;
const SLOTS: u16 = 16_384;
/// A cluster's nodes talk to each other on ports that lie this much above their own. It is
/// the default, and those ports are left to them.
const BUS_PORTS_ABOVE: u16 = PORTS;

pub struct OwnCluster {
    nodes: Vec<OwnRedis>,
}

impl OwnCluster {
    /// One that takes no node for failed that the machine keeps waiting. Returns once every
    /// node knows the others and serves its slots.
    pub async fn start() -> Self {
        Self::start_missing_nodes_after(Duration::from_secs(60)).await
    }

    /// One that soon misses a node that stands still.
    pub async fn start_watchful() -> Self {
        Self::start_missing_nodes_after(Duration::from_secs(2)).await
    }

    async fn start_missing_nodes_after(silence: Duration) -> Self {
        let silence = silence.as_millis().to_string();
        let cluster = ["--cluster-enabled", "yes", "--cluster-announce-ip", "127.0.0.1"];
        let arguments = [&cluster[..], &["--cluster-node-timeout", &silence]].concat();
        let port = || free_port_where(|port| is_free(port + BUS_PORTS_ABOVE));
        let nodes = join_all((0..NODES).map(|_| OwnRedis::start_on(port, &arguments))).await;
        let cluster = Self { nodes };
        cluster.share_out_slots().await;
        cluster.meet().await;
        cluster.until_whole().await;
        cluster
    }

    pub fn addrs(&self) -> Vec<String> {
        self.nodes.iter().map(OwnRedis::addr).collect()
    }

    /// One of the three, to be looked into.
    pub fn node(&self, node: usize) -> &OwnRedis {
        &self.nodes[node]
    }

    /// Sends a signal to one node, such as STOP, CONT or KILL.
    pub fn signal(&self, node: usize, name: &str) {
        self.nodes[node].signal(name);
    }

    /// Returns once the node, which has lost what was not saved, serves its slots again.
    pub async fn kill_and_start_again(&mut self, node: usize) {
        self.nodes[node].kill_and_start_again().await;
        self.until_whole().await;
    }

    /// All hashes, on any node, whose keys match the pattern.
    pub async fn hashes(&self, pattern: &str) -> Hashes {
        join_all(self.nodes.iter().map(|node| node.hashes(pattern))).await.into_iter().flatten().collect()
    }

    pub async fn flushall(&self) {
        join_all(self.nodes.iter().map(OwnRedis::flushall)).await;
    }

    pub async fn script_flush(&self) {
        join_all(self.nodes.iter().map(OwnRedis::script_flush)).await;
    }

    async fn share_out_slots(&self) {
        for (number, node) in (0..NODES).zip(&self.nodes) {
            let (first, next) = (SLOTS / NODES * number, SLOTS / NODES * (number + 1));
            let last = if number + 1 == NODES { SLOTS - 1 } else { next - 1 };
            let mut connection = node.connection().await;
            let mut slots = cmd("CLUSTER");
            slots.arg("ADDSLOTSRANGE").arg(first).arg(last);
            let () = slots.query_async(&mut connection).await.unwrap();
            // Nodes that begin at the same epoch have to settle first whose is later.
            let mut epoch = cmd("CLUSTER");
            epoch.arg("SET-CONFIG-EPOCH").arg(number + 1);
            let () = epoch.query_async(&mut connection).await.unwrap();
        }
    }

    async fn meet(&self) {
        let mut connection = self.nodes[0].connection().await;
        for addr in &self.addrs()[1..] {
            let (host, port) = addr.split_once(':').unwrap();
            let () = cmd("CLUSTER").arg("MEET").arg(host).arg(port).query_async(&mut connection).await.unwrap();
        }
    }

    /// Waits until every node finds every other at work, and all slots served.
    pub async fn until_whole(&self) {
        until("the cluster is whole", async || join_all(self.nodes.iter().map(finds_all_well)).await == [true; 3])
            .await;
    }
}

async fn finds_all_well(node: &OwnRedis) -> bool {
    let mut connection = node.connection().await;
    let info: Value = cmd("CLUSTER").arg("INFO").query_async(&mut connection).await.unwrap();
    let info: InfoDict = redis::from_redis_value(info).unwrap();
    let nodes: String = cmd("CLUSTER").arg("NODES").query_async(&mut connection).await.unwrap();
    info.get("cluster_state") == Some("ok".to_owned())
        && info.get("cluster_slots_ok") == Some(SLOTS)
        && nodes.lines().count() == usize::from(NODES)
        // Neither failed nor suspected of it.
        && nodes.lines().all(|line| line.contains(" connected ") && !line.contains("fail"))
}
