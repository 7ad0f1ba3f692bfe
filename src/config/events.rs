//! `billing.alerts` and `billing.events`: the thresholds of users without their own, and the feed.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, de};

use super::{shown::shown, values};
use crate::biz::{events::alerts::Alerts, values::money::Money};

/// The thresholds of users without their own.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AlertsConfig {
    #[serde(deserialize_with = "balances", serialize_with = "shown")]
    pub balance_below: Vec<Money>,
    #[serde(deserialize_with = "percents")]
    pub quota_percent: Vec<u8>,
}

impl Default for AlertsConfig {
    fn default() -> Self {
        Self { balance_below: Vec::new(), quota_percent: vec![50, 80, 100] }
    }
}

impl AlertsConfig {
    pub fn alerts(&self) -> Alerts {
        // Both lists were checked when they were read.
        Alerts::new(self.balance_below.clone(), self.quota_percent.clone()).unwrap_or_default()
    }
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct EventsConfig {
    /// The time for which the feed has an event.
    #[serde(deserialize_with = "keep", serialize_with = "shown")]
    pub keep: Duration,
}

impl Default for EventsConfig {
    fn default() -> Self {
        Self { keep: Duration::from_secs(30 * 24 * 3_600) }
    }
}

/// An amount of a list.
#[derive(Deserialize)]
struct Threshold(#[serde(deserialize_with = "values::amount")] Money);

fn balances<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Money>, D::Error> {
    let balances: Vec<Money> = Vec::deserialize(deserializer)?.into_iter().map(|Threshold(amount)| amount).collect();
    Alerts::new(balances.clone(), Vec::new()).map_err(|bad| de::Error::custom(bad.why))?;
    Ok(balances)
}

fn percents<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let percents: Vec<u8> = Vec::deserialize(deserializer)?;
    Alerts::new(Vec::new(), percents.clone()).map_err(|bad| de::Error::custom(bad.why))?;
    Ok(percents)
}

/// A duration of an hour to a year.
fn keep<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    const SHORTEST: Duration = Duration::from_secs(3_600);
    const LONGEST: Duration = Duration::from_secs(365 * 24 * 3_600);
    let keep = values::duration(deserializer)?;
    match (SHORTEST..=LONGEST).contains(&keep) {
        true => Ok(keep),
        false => Err(de::Error::custom("must be 1h to 8760h")),
    }
}
