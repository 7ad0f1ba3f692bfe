//! The settings of Redis.

use std::{fmt, time::Duration};

use uuid::Uuid;

use crate::data::tls::ClientTls;

/// The location of Redis, the login, and the time limits.
pub struct RedisSettings {
    /// The id of the database that owns the entries; every key contains it.
    pub database: Uuid,
    pub layout: RedisLayout,
    /// `host:port` of the server, of the sentinels, or of some nodes of the cluster.
    pub addrs: Vec<String>,
    pub username: Option<String>,
    pub password: Option<String>,
    /// `None` for connections without TLS.
    pub tls: Option<ClientTls>,
    /// Logical database; 0 for a cluster.
    pub db: i64,
    /// Time limit of commands that a check waits for.
    pub check_timeout: Duration,
    /// Time limit of all other commands.
    pub write_timeout: Duration,
    /// Whether this process empties, marks and warms servers whose entries may be stale. If not,
    /// it does not use such servers.
    pub keeps: bool,
    /// Lifetime of an entry.
    pub ttl: Duration,
}

/// The deployment of Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisLayout {
    Single,
    /// One master, which the sentinels know by this name.
    Sentinel {
        master: String,
    },
    Cluster,
}

/// A callback that receives the name and the duration of each script call.
pub type ScriptTimes = Box<dyn Fn(&'static str, Duration) + Send + Sync>;

impl fmt::Debug for RedisSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSettings")
            .field("layout", &self.layout)
            .field("addrs", &self.addrs)
            .finish_non_exhaustive()
    }
}
