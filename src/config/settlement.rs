//! `billing.settlement`: the lanes, their batches and the parking.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{shown::shown, values};

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct SettlementConfig {
    /// 0 means the default of the database.
    #[serde(deserialize_with = "values::lanes")]
    pub lanes: usize,
    #[serde(deserialize_with = "values::up_to_a_million")]
    pub queue: usize,
    /// 0 means the default of the database.
    #[serde(deserialize_with = "values::batch")]
    pub batch: usize,
    #[serde(deserialize_with = "values::duration", serialize_with = "shown")]
    pub max_wait: Duration,
    #[serde(alias = "patience", deserialize_with = "values::duration", serialize_with = "shown")]
    pub retry_timeout: Duration,
    #[serde(deserialize_with = "values::up_to_a_million")]
    pub parked_accounts: usize,
    /// Most parked postings of one account.
    #[serde(deserialize_with = "values::up_to_a_million")]
    pub parked_postings: usize,
    #[serde(deserialize_with = "values::up_to_a_thousand")]
    pub parked_connections: usize,
    #[serde(deserialize_with = "values::duration", serialize_with = "shown")]
    pub quarantine: Duration,
}

impl Default for SettlementConfig {
    fn default() -> Self {
        Self {
            lanes: 0,
            queue: 8_192,
            batch: 0,
            max_wait: Duration::from_millis(500),
            retry_timeout: Duration::from_secs(10),
            parked_accounts: 1_000,
            parked_postings: 1_000,
            parked_connections: 8,
            quarantine: Duration::from_secs(10),
        }
    }
}
