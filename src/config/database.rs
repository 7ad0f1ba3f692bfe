//! `data.database`: the database, its hosts and the waits for it.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize, Serializer};

use super::{
    choices::{self, Driver, ShowReads},
    secret::Secret,
    shown::shown,
    values,
};
use crate::data::dsn::{self, Host};

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    #[serde(deserialize_with = "choices::word", serialize_with = "shown")]
    pub driver: Driver,
    #[serde(serialize_with = "shown_source")]
    pub source: Secret,
    #[serde(default)]
    pub(super) source_file: Option<PathBuf>,
    /// The authorities of the server's certificate; `None` for those of the system.
    #[serde(default)]
    pub(super) ca_file: Option<PathBuf>,
    /// The certificate of this client, and its key.
    #[serde(default)]
    pub(super) cert_file: Option<PathBuf>,
    #[serde(default)]
    pub(super) key_file: Option<PathBuf>,
    /// The hosts by preference, in place of those of `source`.
    #[serde(default, deserialize_with = "values::hosts", serialize_with = "shown")]
    pub hosts: Vec<Host>,
    /// No key: tests shorten the wait before a return to a preferred host.
    #[serde(skip)]
    pub return_to_host_after: Option<Duration>,
    #[serde(default, deserialize_with = "choices::word", serialize_with = "shown")]
    pub show_reads: ShowReads,
    #[serde(default = "default_connections", deserialize_with = "values::up_to_a_thousand")]
    pub max_connections: usize,
    #[serde(default = "default_connect_timeout", deserialize_with = "values::duration", serialize_with = "shown")]
    pub connect_timeout: Duration,
    /// Longest wait of a statement for a free connection.
    #[serde(default = "default_acquire_timeout", deserialize_with = "values::duration", serialize_with = "shown")]
    pub acquire_timeout: Duration,
    /// Largest distance of this process's clock from the database's clock.
    #[serde(default = "default_max_clock_skew", deserialize_with = "values::duration", serialize_with = "shown")]
    pub max_clock_skew: Duration,
    /// The zone of the wall-clock times in a legacy database; `None` means the zone in `source`.
    #[serde(default, alias = "former_zone", deserialize_with = "values::optional_timezone", serialize_with = "shown")]
    pub legacy_zone: Option<chrono_tz::Tz>,
}

/// The source without its password.
fn shown_source<S: Serializer>(source: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&dsn::redacted(source.reveal()))
}

fn default_connections() -> usize {
    16
}

fn default_connect_timeout() -> Duration {
    Duration::from_secs(30)
}

fn default_acquire_timeout() -> Duration {
    Duration::from_secs(2)
}

fn default_max_clock_skew() -> Duration {
    Duration::from_secs(5)
}
