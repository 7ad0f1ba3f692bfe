//! The shared cache and the shared rate limits: entries in Redis, which scripts read and change.
//! Each script touches one slot. If Redis is slow, down, emptied or restored from an old
//! snapshot, calls fail at once, and the caller reads the database.

mod batch;
mod cache;
mod hash;
mod keys;
mod link;
mod node;
mod rate_limit;
mod scripts;
mod topology;

use std::{fmt, time::Duration};

pub use self::{cache::RedisCache, rate_limit::RedisRateLimiter};

/// The location of Redis, the login, and the time limits.
pub struct Settings {
    pub mode: Mode,
    /// `host:port` of the server, of the sentinels, or of some nodes of the cluster.
    pub addrs: Vec<String>,
    pub username: Option<String>,
    pub password: Option<String>,
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
pub enum Mode {
    Single,
    /// One master, which the sentinels know by this name.
    Sentinel {
        master: String,
    },
    Cluster,
}

/// A callback that receives the name and the duration of each script call.
pub type ScriptTimes = Box<dyn Fn(&'static str, Duration) + Send + Sync>;

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("mode", &self.mode).field("addrs", &self.addrs).finish_non_exhaustive()
    }
}
