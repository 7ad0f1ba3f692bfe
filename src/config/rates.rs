//! `billing.rate_limits`: the most requests of users and API keys per second, minute and hour.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use super::{shown::shown, values};
use crate::biz::limits::rate_limit;

#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RateLimitsConfig {
    /// The limits of each user.
    pub user: RatesConfig,
    /// The limits of each API key, for all its users together.
    pub api_key: RatesConfig,
}

/// Most requests in a window; 0 in the file means no limit.
#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RatesConfig {
    #[serde(deserialize_with = "values::rate", serialize_with = "shown")]
    pub second: Option<NonZeroU32>,
    #[serde(deserialize_with = "values::rate", serialize_with = "shown")]
    pub minute: Option<NonZeroU32>,
    #[serde(deserialize_with = "values::rate", serialize_with = "shown")]
    pub hour: Option<NonZeroU32>,
}

impl From<RateLimitsConfig> for rate_limit::RateLimits {
    fn from(limits: RateLimitsConfig) -> Self {
        Self { user: limits.user.into(), api_key: limits.api_key.into() }
    }
}

impl From<RatesConfig> for rate_limit::Rates {
    fn from(RatesConfig { second, minute, hour }: RatesConfig) -> Self {
        Self { second, minute, hour }
    }
}
