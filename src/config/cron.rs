//! `cron`: the process that runs the jobs.

use serde::{Deserialize, Serialize};

use super::values;

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CronConfig {
    pub metrics: CronMetrics,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CronMetrics {
    /// The address of the port with `/metrics`; `None` for no port.
    #[serde(deserialize_with = "values::optional_address")]
    pub addr: Option<String>,
}
