//! `console`: the pages for users and operators.

use std::{path::PathBuf, time::Duration};

use anyhow::bail;
use serde::{Deserialize, Serialize};

use super::{secret::Secret, shown::shown, values};
use crate::biz::values::ids::UserId;

/// Fewest bytes of the key of sessions: the length of the keys that are derived from it.
const MIN_KEY: usize = 32;

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConsoleConfig {
    pub enabled: bool,
    /// Seals the cookies of sessions. `None`: each process makes one.
    pub key: Option<Secret>,
    key_file: Option<PathBuf>,
    /// A session ends when no page was read for so long.
    #[serde(deserialize_with = "values::session_time", serialize_with = "shown")]
    pub idle_timeout: Duration,
    /// A session ends so long after its sign-in.
    #[serde(deserialize_with = "values::session_time", serialize_with = "shown")]
    pub max_age: Duration,
    /// The account of the pages in mode none of `server.http.auth`, if the address names none. Empty: the pages ask.
    pub demo_user: String,
}

impl ConsoleConfig {
    pub(super) fn check(&self) -> anyhow::Result<()> {
        if self.key.as_ref().is_some_and(|key| key.reveal().len() < MIN_KEY) {
            bail!("config key console.key: must have at least {MIN_KEY} characters");
        }
        if self.idle_timeout > self.max_age {
            bail!("config key console.idle_timeout: must be at most console.max_age");
        }
        UserId::parse_optional("console.demo_user", &self.demo_user)
            .map_err(|wrong| anyhow::anyhow!("config key {wrong}"))?;
        Ok(())
    }
}

impl Default for ConsoleConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            key: None,
            key_file: None,
            idle_timeout: Duration::from_secs(30 * 60),
            max_age: Duration::from_secs(12 * 3_600),
            demo_user: String::new(),
        }
    }
}
