//! `billing.reservations` and `billing.streams`: holds that nobody ends, work beyond a hold,
//! and how streams are metered.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Deserializer, de};

use super::{choices, values};
use crate::biz::{
    account::policy::{AboveHold, OnExpiry, Policy},
    values::ids::ServiceName,
};

/// What one service does with its reservations.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Reservations {
    #[serde(deserialize_with = "on_expiry")]
    on_expiry: OnExpiry,
    #[serde(deserialize_with = "above_hold")]
    above_hold: AboveHold,
}

impl From<Reservations> for Policy {
    fn from(Reservations { on_expiry, above_hold }: Reservations) -> Self {
        Self { on_expiry, above_hold }
    }
}

fn on_expiry<'de, D: Deserializer<'de>>(deserializer: D) -> Result<OnExpiry, D::Error> {
    choices::choice(deserializer, &[("commit", OnExpiry::Commit), ("release", OnExpiry::Release)])
}

fn above_hold<'de, D: Deserializer<'de>>(deserializer: D) -> Result<AboveHold, D::Error> {
    let policies = [("charge", AboveHold::Charge), ("cap", AboveHold::Cap), ("spill", AboveHold::Spill)];
    choices::choice(deserializer, &policies)
}

pub(super) fn reservations<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, Reservations>, D::Error> {
    let services = BTreeMap::<String, Reservations>::deserialize(deserializer)?;
    for name in services.keys() {
        ServiceName::parse(name, name).map_err(|why| de::Error::custom(format!("service {why}")))?;
    }
    Ok(services)
}

/// How streams are metered.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Streams {
    /// What is new of a stream is durable this soon.
    #[serde(deserialize_with = "values::duration")]
    pub progress: Duration,
    /// How long a stream that broke waits to be opened again.
    #[serde(deserialize_with = "values::duration")]
    pub grace: Duration,
    /// A stream that is silent for so long has broken.
    #[serde(deserialize_with = "values::duration")]
    pub idle_timeout: Duration,
}

impl Default for Streams {
    fn default() -> Self {
        Self { progress: Duration::from_secs(1), grace: Duration::from_secs(5), idle_timeout: Duration::from_secs(60) }
    }
}
