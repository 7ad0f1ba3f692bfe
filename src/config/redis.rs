//! `data.redis`: the cache that all processes share.

use std::time::Duration;

use anyhow::bail;
use serde::Deserialize;

use super::{
    choices::{self, RedisMode},
    secret::Secret,
    values,
};

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redis {
    /// The addresses of the server, of the sentinels, or of some cluster nodes.
    #[serde(rename = "addr", deserialize_with = "values::addresses")]
    pub addrs: Vec<String>,
    #[serde(default, deserialize_with = "choices::redis_mode")]
    pub mode: RedisMode,
    /// The name of the master at the sentinels.
    #[serde(default)]
    pub master: String,
    #[serde(default)]
    pub username: Option<String>,
    #[serde(default)]
    pub password: Option<Secret>,
    #[serde(default, deserialize_with = "values::redis_db")]
    pub db: u16,
    #[serde(default = "default_timeout", deserialize_with = "values::duration")]
    pub read_timeout: Duration,
    #[serde(default = "default_timeout", deserialize_with = "values::duration")]
    pub write_timeout: Duration,
    #[serde(default = "default_check_timeout", deserialize_with = "values::duration")]
    pub check_timeout: Duration,
    #[serde(default = "default_ttl", deserialize_with = "values::duration")]
    pub ttl: Duration,
}

impl Redis {
    /// Checks the rules that involve several keys.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        match self.mode {
            RedisMode::Single if self.addrs.len() > 1 => {
                bail!("config key data.redis.addr: names several servers; set mode: sentinel or mode: cluster")
            }
            RedisMode::Sentinel if self.master.is_empty() => {
                bail!("config key data.redis.master: is required with mode: sentinel")
            }
            RedisMode::Cluster if self.db != 0 => bail!("config key data.redis.db: must be 0 with mode: cluster"),
            _ => Ok(()),
        }
    }
}

fn default_timeout() -> Duration {
    Duration::from_millis(200)
}

fn default_check_timeout() -> Duration {
    Duration::from_millis(50)
}

fn default_ttl() -> Duration {
    Duration::from_secs(600)
}
