//! Redis servers for tests: a shared one, private ones, a cluster, sentinels, and a proxy that
//! disturbs connections. All end with the test process.

mod cluster;
mod database;
mod own;
mod proxy;
mod sentinel;

use std::sync::atomic::{AtomicU16, Ordering};

use tokio::sync::OnceCell;

pub use self::{cluster::OwnCluster, database::RedisDatabase, own::OwnRedis, proxy::Proxy, sentinel::OwnSentinel};

/// Logical databases of the server that tests share.
const DATABASES: u16 = 4096;

/// A new logical database on the shared server of this process.
pub async fn shared() -> RedisDatabase {
    static SERVER: OnceCell<OwnRedis> = OnceCell::const_new();
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = async || OwnRedis::start_with(&["--databases", &DATABASES.to_string()]).await;
    let server = SERVER.get_or_init(start).await;
    let db = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(db < DATABASES, "all logical databases are in use");
    RedisDatabase { addr: server.addr(), db }
}
