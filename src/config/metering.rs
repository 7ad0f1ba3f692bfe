//! `billing.reservations` and `billing.streams`: the end of expired reservations, work above a hold,
//! and the metering of streams.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Deserializer, de};

use super::{choices, values};
use crate::biz::{
    account::policy::{AboveHold, OnExpiry, Policy},
    values::ids::ServiceName,
};

/// The policy of one service for its reservations.
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

/// The metering of streams.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Streams {
    /// Longest time until a report of a stream is durable.
    #[serde(deserialize_with = "values::duration")]
    pub progress: Duration,
    /// Time in which a broken stream may be reopened before it is charged.
    #[serde(deserialize_with = "values::duration")]
    pub grace: Duration,
    /// Silence after which a stream counts as broken.
    #[serde(deserialize_with = "values::duration")]
    pub idle_timeout: Duration,
}

impl Default for Streams {
    fn default() -> Self {
        Self { progress: Duration::from_secs(1), grace: Duration::from_secs(5), idle_timeout: Duration::from_secs(60) }
    }
}
