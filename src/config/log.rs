//! `log`: level and form of the logs, and the lines of requests.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    choices::{self, LogFormat, RequestLines},
    shown::shown,
    values,
};

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    #[serde(deserialize_with = "choices::word", serialize_with = "shown")]
    pub level: tracing::Level,
    #[serde(deserialize_with = "choices::word", serialize_with = "shown")]
    pub format: LogFormat,
    /// The requests that get a line.
    #[serde(deserialize_with = "choices::word", serialize_with = "shown")]
    pub requests: RequestLines,
    /// The time from which a request is slow.
    #[serde(deserialize_with = "values::duration", serialize_with = "shown")]
    pub slow_request: Duration,
    /// Most lines of requests in a second; as many again of requests that failed or were slow.
    #[serde(deserialize_with = "values::lines_per_second")]
    pub requests_per_second: u32,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: tracing::Level::INFO,
            format: LogFormat::Text,
            requests: RequestLines::All,
            slow_request: Duration::from_millis(500),
            requests_per_second: 100,
        }
    }
}
