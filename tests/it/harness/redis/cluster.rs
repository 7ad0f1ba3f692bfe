//! A private Redis Cluster of one test: three masters, each with a third of the slots, and optionally a
//! replica of each.

use std::time::Duration;

use futures_util::future::join_all;
use redis::{InfoDict, Value, cmd};

use super::{OwnRedis, database::Hashes};
use crate::harness::{
    private_server::{PORTS, free_port_where, is_free},
    wait::until,
};

const MASTERS: u16 = 3;
const SLOTS: u16 = 16_384;
/// Distance from a node's port to its bus port, on which the nodes talk to each other. This is the
/// default of Redis, and no other server gets these ports.
const BUS_PORTS_ABOVE: u16 = PORTS;

pub struct OwnCluster {
    /// The first masters, then the replica of each in the same order.
    nodes: Vec<OwnRedis>,
}

impl OwnCluster {
    /// Starts a cluster with a long node timeout, so that a busy machine causes no failover. Returns when
    /// every node knows the others and serves its slots.
    pub async fn start() -> Self {
        Self::start_missing_nodes_after(Duration::from_secs(60), 1).await
    }

    /// Starts a cluster that soon notices a frozen node.
    pub async fn start_watchful() -> Self {
        Self::start_missing_nodes_after(Duration::from_secs(2), 1).await
    }

    /// Starts a cluster with a replica of each master. A replica soon takes over from a dead master.
    pub async fn start_with_replicas() -> Self {
        Self::start_missing_nodes_after(Duration::from_secs(2), 2).await
    }

    /// `copies`: number of nodes with the same slots, including the master.
    async fn start_missing_nodes_after(silence: Duration, copies: u16) -> Self {
        let silence = silence.as_millis().to_string();
        let cluster = ["--cluster-enabled", "yes", "--cluster-announce-ip", "127.0.0.1"];
        // A replica takes over even if its data are old. Its first copy starts at once.
        let replicas = ["--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0"];
        let arguments = [&cluster[..], &replicas, &["--cluster-node-timeout", &silence]].concat();
        let port = || free_port_where(|port| is_free(port + BUS_PORTS_ABOVE));
        let nodes = join_all((0..MASTERS * copies).map(|_| OwnRedis::start_on(port, &arguments))).await;
        let cluster = Self { nodes };
        cluster.share_out_slots().await;
        cluster.meet().await;
        cluster.until_whole().await;
        if copies > 1 {
            cluster.replicate().await;
        }
        cluster
    }

    pub fn addrs(&self) -> Vec<String> {
        self.nodes.iter().map(OwnRedis::addr).collect()
    }

    /// One of the first masters.
    pub fn node(&self, node: usize) -> &OwnRedis {
        &self.nodes[node]
    }

    /// Sends a signal to one node, such as STOP, CONT or KILL.
    pub fn signal(&self, node: usize, name: &str) {
        self.nodes[node].signal(name);
    }

    /// Restarts a node with its last saved data. Returns when it serves its slots again.
    pub async fn kill_and_start_again(&mut self, node: usize) {
        self.nodes[node].kill_and_start_again().await;
        self.until_whole().await;
    }

    /// Kills the master of the slots that node `first` had at the start. Returns when its replica has taken
    /// over.
    pub async fn fail_over(&mut self, first: usize) {
        let [dead, other] = self.roles(first).await;
        self.nodes[dead].kill();
        until("the replica has taken over", async || {
            role(&self.nodes[other]).await == "master" && {
                let living = (0..self.nodes.len()).filter(|node| *node != dead);
                join_all(living.map(|node| serves_all_slots(&self.nodes[node]))).await.iter().all(|serves| *serves)
            }
        })
        .await;
    }

    /// Starts the node that [`Self::fail_over`] killed. Returns when it is a replica.
    pub async fn take_back(&mut self, first: usize) {
        for node in self.copies(first) {
            if self.nodes[node].has_ended() {
                self.nodes[node].start_again().await;
            }
        }
        self.until_replicated().await;
    }

    /// The master of the slots that node `first` had at the start.
    pub async fn master(&self, first: usize) -> &OwnRedis {
        for node in self.copies(first) {
            if !self.nodes[node].has_ended() && role(&self.nodes[node]).await == "master" {
                return &self.nodes[node];
            }
        }
        panic!("the slots have no master")
    }

    /// The two nodes with the same slots.
    fn copies(&self, first: usize) -> [usize; 2] {
        [first, first + usize::from(MASTERS)]
    }

    /// The master and the replica of a third of the slots.
    async fn roles(&self, first: usize) -> [usize; 2] {
        let [one, other] = self.copies(first);
        if role(&self.nodes[one]).await == "master" { [one, other] } else { [other, one] }
    }

    /// All hashes on all masters whose keys match the pattern.
    pub async fn hashes(&self, pattern: &str) -> Hashes {
        let mut masters = Vec::new();
        for node in &self.nodes {
            if !node.has_ended() && role(node).await == "master" {
                masters.push(node);
            }
        }
        join_all(masters.into_iter().map(|node| node.hashes(pattern))).await.into_iter().flatten().collect()
    }

    pub async fn flushall(&self) {
        join_all(self.nodes.iter().map(OwnRedis::flushall)).await;
    }

    pub async fn script_flush(&self) {
        join_all(self.nodes.iter().map(OwnRedis::script_flush)).await;
    }

    async fn share_out_slots(&self) {
        for (number, node) in (0..MASTERS).zip(&self.nodes) {
            let (first, next) = (SLOTS / MASTERS * number, SLOTS / MASTERS * (number + 1));
            let last = if number + 1 == MASTERS { SLOTS - 1 } else { next - 1 };
            let mut connection = node.connection().await;
            let mut slots = cmd("CLUSTER");
            slots.arg("ADDSLOTSRANGE").arg(first).arg(last);
            let () = slots.query_async(&mut connection).await.unwrap();
            // With equal epochs, the nodes would first have to resolve a conflict of epochs.
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

    async fn replicate(&self) {
        for (replica, master) in self.nodes[usize::from(MASTERS)..].iter().zip(&self.nodes) {
            let id: String = cmd("CLUSTER").arg("MYID").query_async(&mut master.connection().await).await.unwrap();
            let replicate = cmd("CLUSTER").arg("REPLICATE").arg(id).to_owned();
            let () = replicate.query_async(&mut replica.connection().await).await.unwrap();
        }
        self.until_replicated().await;
    }

    /// Waits until every node sees all other nodes up and all slots served.
    pub async fn until_whole(&self) {
        until("the cluster is whole", async || {
            join_all(self.nodes.iter().map(|node| self.is_whole_for(node))).await.iter().all(|whole| *whole)
        })
        .await;
    }

    /// Like [`Self::until_whole`], and every replica has the data of its master.
    async fn until_replicated(&self) {
        self.until_whole().await;
        until("all slots have a replica", async || {
            for first in 0..usize::from(MASTERS) {
                let [_, replica] = self.roles(first).await;
                let info = replication(&self.nodes[replica]).await;
                if info.get("master_link_status") != Some("up".to_owned()) {
                    return false;
                }
            }
            true
        })
        .await;
    }

    async fn is_whole_for(&self, node: &OwnRedis) -> bool {
        let nodes = cmd("CLUSTER").arg("NODES").to_owned();
        let nodes: String = nodes.query_async(&mut node.connection().await).await.unwrap();
        serves_all_slots(node).await
        && nodes.lines().count() == self.nodes.len()
        // Neither failed nor suspected to have failed.
        && nodes.lines().all(|line| line.contains(" connected") && !line.contains("fail"))
    }
}

/// Whether all slots are served, as a node sees it.
async fn serves_all_slots(node: &OwnRedis) -> bool {
    let info: Value = cmd("CLUSTER").arg("INFO").query_async(&mut node.connection().await).await.unwrap();
    let info: InfoDict = redis::from_redis_value(info).unwrap();
    info.get("cluster_state") == Some("ok".to_owned()) && info.get("cluster_slots_ok") == Some(SLOTS)
}

async fn replication(node: &OwnRedis) -> InfoDict {
    cmd("INFO").arg("replication").query_async(&mut node.connection().await).await.unwrap()
}

async fn role(node: &OwnRedis) -> String {
    replication(node).await.get("role").unwrap()
}
