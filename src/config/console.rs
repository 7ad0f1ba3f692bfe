//! `console`: the pages for users and operators.

use std::{path::PathBuf, time::Duration};

use anyhow::bail;
use serde::{Deserialize, Serialize};

use super::{access::is_origin, secret::Secret, server::is_loopback, shown::shown, values};
use crate::biz::values::ids::UserId;

/// Fewest bytes of the key of sessions: the length of the keys that are derived from it.
const MIN_KEY: usize = 32;

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConsoleConfig {
    pub enabled: bool,
    /// The origin at which browsers reach the pages of users: `https://billing.example.com`. Empty: the `Host` of a
    /// request if `server.http.hosts` lists it, and else none.
    pub url: String,
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
        let is_safe = |url: &str| url.strip_prefix("http://").is_none_or(|host| is_loopback(&with_port(host)));
        if !(self.url.is_empty() || is_origin(&self.url) && is_safe(&self.url)) {
            bail!(
                "config key console.url: must be an origin such as https://billing.example.com, without a path; http is for loopback alone"
            );
        }
        if self.idle_timeout > self.max_age {
            bail!("config key console.idle_timeout: must be at most console.max_age");
        }
        UserId::parse_optional("console.demo_user", &self.demo_user)
            .map_err(|wrong| anyhow::anyhow!("config key {wrong}"))?;
        Ok(())
    }
}

/// The host of an origin with a port, as a listener has it.
fn with_port(host: &str) -> String {
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
    if has_port { host.to_owned() } else { format!("{host}:80") }
}

impl Default for ConsoleConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            url: String::new(),
            key: None,
            key_file: None,
            idle_timeout: Duration::from_secs(30 * 60),
            max_age: Duration::from_secs(12 * 3_600),
            demo_user: String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_is_an_origin_over_tls_or_on_loopback() {
        let check = |url: &str| ConsoleConfig { url: url.into(), ..Default::default() }.check();
        for url in [
            "",
            "https://billing.example.com",
            "https://billing.example.com:8443",
            "http://localhost",
            "http://127.0.0.1:8107",
            "http://[::1]",
            "http://[::1]:8107",
        ] {
            check(url).unwrap();
        }
        for url in [
            "http://billing.example.com",
            "https://billing.example.com/",
            "https://billing.example.com/console",
            "https://user@billing.example.com",
            "billing.example.com",
            "https://",
            "http://localhost.example.com",
            "http://localhost:8107:80",
        ] {
            assert!(check(url).unwrap_err().to_string().contains("console.url"), "{url}");
        }
    }
}
