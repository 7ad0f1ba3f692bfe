//! The place of Redis and the times that are allowed to it.

use std::{fmt, time::Duration};

/// Where Redis is, and how long it is waited for.
pub struct RedisSettings {
    pub layout: RedisLayout,
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
pub enum RedisLayout {
    Single,
    /// One master at a time, which the sentinels know by this name.
    Sentinel {
        master: String,
    },
    Cluster,
}

/// Who is told how long each script took.
pub type ScriptTimes = Box<dyn Fn(&'static str, Duration) + Send + Sync>;

impl fmt::Debug for RedisSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSettings")
            .field("layout", &self.layout)
            .field("addrs", &self.addrs)
            .finish_non_exhaustive()
    }
}
