//! The cache that all processes share: entries in Redis, read and changed by scripts that
//! touch one slot each. Redis may be slow, down, emptied or older than it was: then these
//! fail at once, and who called asks the database. Several databases may share one Redis.

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

use uuid::Uuid;

pub use self::{cache::RedisCache, rate_limit::RedisRateLimiter};

/// Where Redis is, and how long it is waited for.
pub struct Settings {
    /// The id of the database whose entries these are; every key has it.
    pub database: Uuid,
    pub mode: Mode,
    /// Host and port of the server, of the sentinels, or of some nodes of the cluster.
    pub addrs: Vec<String>,
    pub username: Option<String>,
    pub password: Option<String>,
    /// Logical database; a cluster has none but 0.
    pub db: i64,
    /// Of what a check waits for.
    pub check_timeout: Duration,
    /// Of anything else.
    pub write_timeout: Duration,
    /// Whether this process empties and marks servers whose entries may be old, and warms
    /// them. Another leaves such servers alone.
    pub keeps: bool,
    /// How long an entry is believed without being read from the database again.
    pub ttl: Duration,
}

/// How Redis is laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    Single,
    /// One master at a time, which the sentinels know by this name.
    Sentinel {
        master: String,
    },
    Cluster,
}

/// Who is told how long each script took.
pub type ScriptTimes = Box<dyn Fn(&'static str, Duration) + Send + Sync>;

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("mode", &self.mode).field("addrs", &self.addrs).finish_non_exhaustive()
    }
}
