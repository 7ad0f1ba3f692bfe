//! The Redis of a test: one server, a cluster, or a master with sentinels.

use std::{collections::BTreeMap, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use crate::harness::redis::{OwnCluster, OwnRedis, OwnSentinel, RedisDatabase};

/// Key to field to value.
pub type Hashes = BTreeMap<String, BTreeMap<String, String>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    Single,
    Cluster,
    /// A cluster in which each master has a replica.
    Replicated,
    Sentinel,
}

pub enum Servers {
    Single(OwnRedis),
    Cluster(OwnCluster),
    Sentinel(OwnSentinel),
}

/// The only node of a cluster that a test disturbs.
const NODE: usize = 1;

impl Servers {
    pub async fn start(layout: Layout) -> Self {
        match layout {
            Layout::Single => Self::Single(OwnRedis::start().await),
            Layout::Cluster => Self::Cluster(OwnCluster::start().await),
            Layout::Replicated => Self::Cluster(OwnCluster::start_with_replicas().await),
            Layout::Sentinel => Self::Sentinel(OwnSentinel::start().await),
        }
    }

    /// Servers that soon notice a dead or frozen server.
    pub async fn start_watchful(layout: Layout) -> Self {
        match layout {
            Layout::Single => Self::Single(OwnRedis::start().await),
            Layout::Cluster => Self::Cluster(OwnCluster::start_watchful().await),
            Layout::Replicated => Self::Cluster(OwnCluster::start_with_replicas().await),
            Layout::Sentinel => Self::Sentinel(OwnSentinel::start_watchful().await),
        }
    }

    /// `data.redis`
    pub fn config(&self) -> String {
        match self {
            Self::Single(server) => format!("{{addr: '{}'}}", server.addr()),
            Self::Cluster(cluster) => format!("{{addr: '{}', mode: cluster}}", cluster.addrs().join(",")),
            Self::Sentinel(servers) => {
                let (addrs, master) = (servers.sentinel_addrs().join(","), servers.master_name());
                format!("{{addr: '{addrs}', mode: sentinel, master: {master}}}")
            }
        }
    }

    pub async fn hashes(&self) -> Hashes {
        match self {
            Self::Single(server) => server.hashes("billing:*").await,
            Self::Cluster(cluster) => cluster.hashes("billing:*").await,
            Self::Sentinel(servers) => servers.master().hashes("billing:*").await,
        }
    }

    /// Kills a master. Returns when it is back and empty, or when another server is the master.
    pub async fn kill_one(&mut self) {
        match self {
            Self::Single(server) => server.kill_and_start_again().await,
            Self::Cluster(cluster) => cluster.kill_and_start_again(NODE).await,
            Self::Sentinel(servers) => {
                servers.kill_master();
                servers.until_failed_over().await;
            }
        }
    }

    /// Kills a master of a cluster. Returns when its replica has taken over.
    pub async fn fail_over(&mut self) {
        let Self::Cluster(cluster) = self else { panic!("a cluster has replicas") };
        cluster.fail_over(NODE).await;
    }

    /// The current master of the slots whose master [`Self::fail_over`] killed.
    pub async fn master_that_took_over(&self) -> &OwnRedis {
        let Self::Cluster(cluster) = self else { panic!("a cluster has replicas") };
        cluster.master(NODE).await
    }

    /// Starts the killed master again. Returns when it is a replica.
    pub async fn take_back(&mut self) {
        let Self::Cluster(cluster) = self else { panic!("a cluster has replicas") };
        cluster.take_back(NODE).await;
    }

    pub fn stop_one(&self) {
        self.signal("STOP");
    }

    /// Resumes the frozen server. Returns when all servers are in their normal state.
    pub async fn go_on(&mut self) {
        self.signal("CONT");
        match self {
            Self::Single(_) => {}
            Self::Cluster(cluster) => cluster.until_whole().await,
            Self::Sentinel(servers) => servers.until_failed_over().await,
        }
    }

    fn signal(&self, name: &str) {
        match self {
            Self::Single(server) => server.signal(name),
            Self::Cluster(cluster) => cluster.signal(NODE, name),
            Self::Sentinel(servers) => servers.master().signal(name),
        }
    }

    pub async fn flushall(&self) {
        match self {
            Self::Single(server) => server.flushall().await,
            Self::Cluster(cluster) => cluster.flushall().await,
            Self::Sentinel(servers) => servers.master().flushall().await,
        }
    }

    pub async fn script_flush(&self) {
        match self {
            Self::Single(server) => server.script_flush().await,
            Self::Cluster(cluster) => cluster.script_flush().await,
            Self::Sentinel(servers) => servers.master().script_flush().await,
        }
    }
}

/// Fills a small server with other keys, until its memory is full.
pub async fn fill_memory(database: &RedisDatabase) {
    let mut connection = database.connection().await;
    for number in 0..500 {
        let mut set = redis::cmd("SET");
        set.arg(format!("else:{number}")).arg("x".repeat(10_000));
        if set.query_async::<()>(&mut connection).await.is_err() {
            return;
        }
    }
}

/// A line of INFO, if there is one.
pub async fn info(database: &RedisDatabase, name: &str) -> Option<String> {
    let info: redis::InfoDict =
        redis::cmd("INFO").arg("all").query_async(&mut database.connection().await).await.unwrap();
    info.get(name)
}

/// A proxy to `target` that delays every byte. Both directions together take the delay. Returns the
/// address of the proxy.
pub async fn slow_proxy(target: String, delay: watch::Receiver<Duration>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let server = TcpStream::connect(&target).await.unwrap();
            client.set_nodelay(true).unwrap();
            server.set_nodelay(true).unwrap();
            let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
            tokio::spawn(pass(from_client, to_server, delay.clone()));
            tokio::spawn(pass(from_server, to_client, delay.clone()));
        }
    });
    addr
}

/// Bytes are delayed in parallel, so the delay does not limit the throughput.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: watch::Receiver<Duration>) {
    let (sender, mut on_the_way) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let arrives = async move {
        while let Some((at, bytes)) = on_the_way.recv().await {
            sleep_until(at).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    let leaves = async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            let at = Instant::now() + *delay.borrow() / 2;
            if sender.send((at, buffer[..read].to_vec())).is_err() {
                return;
            }
        }
    };
    tokio::join!(arrives, leaves);
}
