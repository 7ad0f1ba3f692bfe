//! `billing.plans`: the prices and free quotas of users with a plan.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, de};

use super::{
    models::{self, ServiceFactor, Versions},
    shown::shown,
    values::{self, FreeQuota},
};
use crate::biz::{
    charge::prices::{Factor, PlanPrices},
    values::{ids::PlanName, money::Money},
};

/// One plan. Absent services and models have the prices and quotas of all users.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct UserPlan {
    /// On the prices of models, except those of `models`.
    #[serde(skip_serializing_if = "Option::is_none")]
    multiplier: Option<ServiceFactor>,
    /// Prices of a unit, by service.
    #[serde(deserialize_with = "values::prices", serialize_with = "shown")]
    pub prices: BTreeMap<String, Money>,
    pub free_quotas: BTreeMap<String, FreeQuota>,
    #[serde(deserialize_with = "models::models")]
    models: BTreeMap<String, Versions>,
}

impl UserPlan {
    pub fn model_prices(&self) -> PlanPrices {
        let multiplier = self.multiplier.map_or(Factor::ONE, |multiplier| multiplier.0);
        PlanPrices { multiplier, models: models::book(&self.models) }
    }
}

pub(super) fn plans<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, UserPlan>, D::Error> {
    let plans = BTreeMap::<String, UserPlan>::deserialize(deserializer)?;
    for name in plans.keys() {
        PlanName::parse(name, name).map_err(|why| de::Error::custom(format!("plan {why}")))?;
    }
    Ok(plans)
}
