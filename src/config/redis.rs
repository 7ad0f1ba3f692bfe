//! `data.redis`: the cache that all processes share.

use std::{path::PathBuf, time::Duration};

use anyhow::bail;
use serde::{Deserialize, Serialize};

use super::{
    choices::{self, RedisMode},
    secret::Secret,
    shown::shown,
    values,
};

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Redis {
    /// The addresses of the server, of the sentinels, or of some cluster nodes.
    #[serde(rename = "addr", deserialize_with = "values::addresses")]
    pub addrs: Vec<String>,
    #[serde(default, deserialize_with = "choices::word", serialize_with = "shown")]
    pub mode: RedisMode,
    /// The name of the master at the sentinels.
    #[serde(default)]
    pub master: String,
    #[serde(default)]
    pub username: Option<String>,
    #[serde(default)]
    pub password: Option<Secret>,
    #[serde(default)]
    password_file: Option<PathBuf>,
    #[serde(default)]
    pub(super) tls: bool,
    /// The authorities of the server's certificate; `None` for those of the system.
    #[serde(default)]
    pub(super) ca_file: Option<PathBuf>,
    /// The certificate of this client, and its key.
    #[serde(default)]
    pub(super) cert_file: Option<PathBuf>,
    #[serde(default)]
    pub(super) key_file: Option<PathBuf>,
    #[serde(default, deserialize_with = "values::redis_db")]
    pub db: u16,
    #[serde(default = "default_timeout", deserialize_with = "values::duration", serialize_with = "shown")]
    pub read_timeout: Duration,
    #[serde(default = "default_timeout", deserialize_with = "values::duration", serialize_with = "shown")]
    pub write_timeout: Duration,
    #[serde(default = "default_check_timeout", deserialize_with = "values::duration", serialize_with = "shown")]
    pub check_timeout: Duration,
    #[serde(default = "default_ttl", deserialize_with = "values::duration", serialize_with = "shown")]
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
