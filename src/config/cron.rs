//! `cron`: the process that runs the jobs.

use serde::{Deserialize, Serialize};

use super::{
    choices::{self, WholeAudits},
    shown::shown,
    values,
};

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CronConfig {
    /// How often the job `audit-all` runs.
    #[serde(deserialize_with = "choices::word", serialize_with = "shown")]
    pub audit_all: WholeAudits,
    pub metrics: CronMetrics,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CronMetrics {
    /// The address of the port with `/metrics`; `None` for no port.
    #[serde(deserialize_with = "values::optional_address")]
    pub addr: Option<String>,
}
