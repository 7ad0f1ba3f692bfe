//! `billing`: services, prices, free quotas, plans and months.

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};

use super::{
    events::{AlertsConfig, EventsConfig},
    metering, models, plans,
    rates::RateLimitsConfig,
    settlement::SettlementConfig,
    shown::shown,
    values,
    webhooks::WebhooksConfig,
};
use crate::biz::{
    account::{
        catalog::{Catalog, Price, QuotaUnit, ServiceTerms},
        policy::Policy,
    },
    charge::prices::PriceBook,
    jobs::low_balance::{Percent, Thresholds},
    values::{
        calendar::{Calendar, Clock, DEFAULT_CLOSE_AFTER},
        currency::Currency,
        ids::{PlanName, ServiceName},
        money::Money,
    },
};

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Billing {
    #[serde(default, deserialize_with = "values::prices", serialize_with = "shown")]
    pub prices: BTreeMap<String, Money>,
    /// The services that are priced by model, with the unit of their free quotas.
    #[serde(default, deserialize_with = "models::model_services")]
    pub model_services: BTreeMap<String, models::Counts>,
    /// The weights of the classes of tokens in the free quotas of services that count tokens.
    #[serde(default)]
    pub quota_weights: BTreeMap<String, models::Weights>,
    #[serde(default, deserialize_with = "models::models")]
    pub models: BTreeMap<String, models::Versions>,
    /// Prices and free quotas that differ by the plan of the user. The plan `default` is that of a user
    /// without another one.
    #[serde(default, deserialize_with = "plans::plans")]
    pub plans: BTreeMap<String, plans::UserPlan>,
    /// A usage of more than this many times the expected one is counted and logged.
    #[serde(default = "default_usage_sanity", deserialize_with = "values::usage_sanity")]
    pub usage_sanity: u32,
    #[serde(default = "default_price_refresh", deserialize_with = "values::duration", serialize_with = "shown")]
    pub price_refresh: Duration,
    #[serde(default)]
    pub free_quotas: BTreeMap<String, values::FreeQuota>,
    #[serde(default = "default_balance_low", deserialize_with = "values::amount", serialize_with = "shown")]
    pub balance_low_threshold: Money,
    #[serde(default = "default_quota_low", deserialize_with = "values::percent", serialize_with = "shown")]
    pub quota_low_percent_threshold: Percent,
    #[serde(default = "default_timezone", deserialize_with = "values::timezone", serialize_with = "shown")]
    pub timezone: chrono_tz::Tz,
    #[serde(default = "default_currency", deserialize_with = "values::currency", serialize_with = "shown")]
    pub currency: Currency,
    #[serde(
        default = "default_reservation_ttl",
        deserialize_with = "values::reservation_ttl",
        serialize_with = "shown"
    )]
    pub reservation_ttl: Duration,
    #[serde(default = "default_sweep_interval", deserialize_with = "values::sweep_interval", serialize_with = "shown")]
    pub sweep_interval: Duration,
    #[serde(default = "default_max_recharge", deserialize_with = "values::amount", serialize_with = "shown")]
    pub max_recharge: Money,
    /// Months before this one whose records are not archived; `None` archives no records.
    #[serde(default, deserialize_with = "values::months", serialize_with = "shown")]
    pub record_months: Option<NonZeroU32>,
    /// The time after the end of a month at which it closes.
    #[serde(default = "default_close_after", deserialize_with = "values::close_after", serialize_with = "shown")]
    pub close_after: Duration,
    /// The policies by service. Other services have the default policy.
    #[serde(default, deserialize_with = "metering::reservations")]
    pub reservations: BTreeMap<String, metering::Reservations>,
    #[serde(default)]
    pub streams: metering::Streams,
    #[serde(default)]
    pub rate_limits: RateLimitsConfig,
    #[serde(default)]
    pub alerts: AlertsConfig,
    #[serde(default)]
    pub events: EventsConfig,
    #[serde(default)]
    pub webhooks: WebhooksConfig,
    #[serde(default)]
    pub settlement: SettlementConfig,
}

impl Billing {
    /// Whether a service has a price, by unit or by model.
    pub(super) fn has_price(&self, service: &str) -> bool {
        self.prices.contains_key(service) || self.model_services.contains_key(service)
    }

    /// The thresholds below which accounts are reported as low.
    pub(super) fn low_thresholds(&self) -> Thresholds {
        Thresholds { balance: self.balance_low_threshold, quota: self.quota_low_percent_threshold }
    }

    /// The billable services.
    pub(super) fn catalog(&self) -> Catalog {
        let by_unit = self.prices.iter().map(|(name, price)| (name, Price::Unit(*price)));
        let by_model = self.model_services.iter().map(|(name, counts)| {
            let quota_unit = match (counts.0, self.quota_weights.get(name)) {
                (QuotaUnit::Tokens(_), Some(weights)) => QuotaUnit::Tokens(weights.0),
                (unit, _) => unit,
            };
            (name, Price::Model(quota_unit))
        });
        let services: Vec<_> = by_unit
            .chain(by_model)
            .map(|(name, price)| {
                let free_quota = self.free_quotas.get(name).map_or(0, |quota| quota.units());
                let policy = self.reservations.get(name).copied().map(Policy::from).unwrap_or_default();
                (ServiceName::from_stored(name.as_str()), ServiceTerms { price, free_quota, policy })
            })
            .collect();
        let of_plan = |plan: &plans::UserPlan| -> Vec<(ServiceName, ServiceTerms)> {
            let in_plan = |(service, terms): &(ServiceName, ServiceTerms)| {
                let price = plan.prices.get(service.as_str()).map_or(terms.price, |price| Price::Unit(*price));
                let free_quota = plan.free_quotas.get(service.as_str()).map_or(terms.free_quota, |quota| quota.units());
                (service.clone(), ServiceTerms { price, free_quota, ..*terms })
            };
            services.iter().map(in_plan).collect()
        };
        let (default, others): (Vec<_>, Vec<_>) = self.plans.iter().partition(|(name, _)| *name == PlanName::DEFAULT);
        let mut catalog = Catalog::new(default.first().map_or_else(|| services.clone(), |(_, plan)| of_plan(plan)));
        for (name, plan) in others {
            catalog.add_plan(PlanName::from_stored(name), of_plan(plan));
        }
        catalog.set_alerts(self.alerts.alerts());
        catalog
    }

    /// The calendar of the billing zone.
    pub(super) fn calendar(&self, clock: impl Clock) -> Calendar {
        let close_after = TimeDelta::from_std(self.close_after).unwrap_or(DEFAULT_CLOSE_AFTER);
        Calendar::new(self.timezone, clock).closing_after(close_after)
    }

    /// The configured token prices.
    pub(super) fn price_book(&self) -> PriceBook {
        let mut book = models::book(&self.models);
        for (name, plan) in &self.plans {
            book.add_plan(PlanName::from_stored(name), plan.model_prices());
        }
        book
    }
}

fn default_max_recharge() -> Money {
    Money::from_micros(999_999_990_000)
}

fn default_balance_low() -> Money {
    Money::from_micros(10_000_000)
}

fn default_quota_low() -> Percent {
    Percent::from_hundredths(2_000)
}

fn default_timezone() -> chrono_tz::Tz {
    chrono_tz::Asia::Shanghai
}

fn default_usage_sanity() -> u32 {
    1_000
}

fn default_price_refresh() -> Duration {
    Duration::from_secs(10)
}

fn default_reservation_ttl() -> Duration {
    Duration::from_secs(600)
}

fn default_sweep_interval() -> Duration {
    Duration::from_secs(60)
}

fn default_close_after() -> Duration {
    Duration::from_secs(72 * 3_600)
}

fn default_currency() -> Currency {
    Currency::CNY
}
