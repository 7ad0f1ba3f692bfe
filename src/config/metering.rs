//! `billing.reservations` and `billing.streams`: the end of expired reservations, work above a hold,
//! and the metering of streams.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, de};

use super::{choices, shown::shown, values};
use crate::biz::{
    account::policy::{AboveHold, OnExpiry, Policy},
    values::ids::ServiceName,
};

/// The policy of one service for its reservations.
#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Reservations {
    #[serde(deserialize_with = "choices::word", serialize_with = "shown")]
    on_expiry: OnExpiry,
    #[serde(deserialize_with = "choices::word", serialize_with = "shown")]
    above_hold: AboveHold,
}

impl From<Reservations> for Policy {
    fn from(Reservations { on_expiry, above_hold }: Reservations) -> Self {
        Self { on_expiry, above_hold }
    }
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
#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Streams {
    /// Longest time until a report of a stream is durable.
    #[serde(deserialize_with = "values::duration", serialize_with = "shown")]
    pub progress: Duration,
    /// Time in which a broken stream may be reopened before it is charged.
    #[serde(deserialize_with = "values::duration", serialize_with = "shown")]
    pub grace: Duration,
    /// Silence after which a stream counts as broken.
    #[serde(deserialize_with = "values::duration", serialize_with = "shown")]
    pub idle_timeout: Duration,
}

impl Default for Streams {
    fn default() -> Self {
        Self { progress: Duration::from_secs(1), grace: Duration::from_secs(5), idle_timeout: Duration::from_secs(60) }
    }
}
