//! The configuration: a YAML file, whose keys the environment can override.
//!
//! `configs/*.yaml` document every key. An unknown key or an invalid value is an error that names the
//! key.

mod access;
mod choices;
mod cron;
mod loaded;
mod metering;
mod models;
mod outgoing_tls;
mod payment;
mod plans;
mod rates;
mod redis;
mod secret;
mod secret_files;
mod server;
mod shown;
mod values;

use std::{collections::BTreeMap, num::NonZeroU32, path::PathBuf, time::Duration};

use anyhow::{anyhow, bail};
use chrono::TimeDelta;
use serde::{Deserialize, Serialize, Serializer};

use self::shown::shown;
pub use self::{
    access::{CallerConfig, JwtConfig},
    choices::{
        CallbackAuth, Driver, Environment, FrontEndAuth, JwtAlgorithm, LogFormat, RedisMode, Role, ShowReads, Style,
        UnknownFields,
    },
    loaded::Loaded,
    metering::Streams,
    payment::PaymentServiceConfig,
    rates::RateLimitsConfig,
    redis::Redis,
    secret::Secret,
    server::{HttpPort, Server, ServerLimits, ServerTls},
};
use crate::{
    biz::{
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
    },
    data::dsn::{self, Host},
};

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The environment of the deployment; `None` if the file does not set it.
    #[serde(default, deserialize_with = "choices::optional_word", serialize_with = "shown")]
    pub environment: Option<Environment>,
    #[serde(default)]
    pub server: Server,
    pub data: Data,
    pub billing: Billing,
    pub payment_service: Option<PaymentServiceConfig>,
    #[serde(default)]
    pub cron: cron::CronConfig,
    #[serde(default)]
    pub log: Log,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    pub database: Database,
    pub redis: Option<Redis>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    #[serde(deserialize_with = "choices::word", serialize_with = "shown")]
    pub driver: Driver,
    #[serde(serialize_with = "shown_source")]
    pub source: Secret,
    #[serde(default)]
    source_file: Option<PathBuf>,
    /// The authorities of the server's certificate; `None` for those of the system.
    #[serde(default)]
    ca_file: Option<PathBuf>,
    /// The certificate of this client, and its key.
    #[serde(default)]
    cert_file: Option<PathBuf>,
    #[serde(default)]
    key_file: Option<PathBuf>,
    /// The hosts by preference, in place of those of `source`.
    #[serde(default, deserialize_with = "values::hosts", serialize_with = "shown")]
    pub hosts: Vec<Host>,
    /// No key: tests shorten the wait before a return to a preferred host.
    #[serde(skip)]
    pub return_to_host_after: Option<Duration>,
    #[serde(default, deserialize_with = "choices::word", serialize_with = "shown")]
    pub show_reads: ShowReads,
    #[serde(default = "default_connections", deserialize_with = "values::up_to_a_thousand")]
    pub max_connections: usize,
    #[serde(default = "default_connect_timeout", deserialize_with = "values::duration", serialize_with = "shown")]
    pub connect_timeout: Duration,
    /// Longest wait of a statement for a free connection.
    #[serde(default = "default_acquire_timeout", deserialize_with = "values::duration", serialize_with = "shown")]
    pub acquire_timeout: Duration,
    /// Largest distance of this process's clock from the database's clock.
    #[serde(default = "default_max_clock_skew", deserialize_with = "values::duration", serialize_with = "shown")]
    pub max_clock_skew: Duration,
    /// The zone of the wall-clock times in a legacy database; `None` means the zone in `source`.
    #[serde(default, alias = "former_zone", deserialize_with = "values::optional_timezone", serialize_with = "shown")]
    pub legacy_zone: Option<chrono_tz::Tz>,
}

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
    pub settlement: SettlementConfig,
}

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

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    #[serde(deserialize_with = "choices::word", serialize_with = "shown")]
    pub level: tracing::Level,
    #[serde(deserialize_with = "choices::word", serialize_with = "shown")]
    pub format: LogFormat,
}

impl Config {
    /// Checks the rules that involve several keys.
    fn check(&self) -> anyhow::Result<()> {
        let Billing { prices, model_services, .. } = &self.billing;
        if prices.is_empty() && model_services.is_empty() {
            bail!("config key billing.prices: names no service");
        }
        for name in model_services.keys() {
            if prices.contains_key(name) {
                bail!("config key billing.model_services.{name}: the service has a price in billing.prices");
            }
        }
        for name in self.billing.free_quotas.keys() {
            if !prices.contains_key(name) && !model_services.contains_key(name) {
                bail!("config key billing.free_quotas.{name}: the service has no price in billing.prices");
            }
        }
        for name in self.billing.quota_weights.keys() {
            if !model_services.get(name).is_some_and(|counts| matches!(counts.0, QuotaUnit::Tokens(_))) {
                bail!("config key billing.quota_weights.{name}: billing.model_services.{name} is not tokens");
            }
        }
        for (plan, of_plan) in &self.billing.plans {
            for name in of_plan.prices.keys() {
                if !prices.contains_key(name) {
                    bail!("config key billing.plans.{plan}.prices.{name}: the service has no price in billing.prices");
                }
            }
            for name in of_plan.free_quotas.keys() {
                if !prices.contains_key(name) && !model_services.contains_key(name) {
                    bail!(
                        "config key billing.plans.{plan}.free_quotas.{name}: the service has no price in billing.prices"
                    );
                }
            }
        }
        for name in self.billing.reservations.keys() {
            if !prices.contains_key(name) && !model_services.contains_key(name) {
                bail!("config key billing.reservations.{name}: the service has no price in billing.prices");
            }
        }
        if let Some(redis) = &self.data.redis {
            redis.check()?;
            redis.client_tls()?;
        }
        self.server.check()?;
        if let Some(payment) = &self.payment_service {
            payment.check()?;
            payment.client_tls()?;
            if payment.sandbox && self.environment == Some(Environment::Production) {
                bail!(
                    "config key payment_service.sandbox: simulates payment-service, which environment: production forbids"
                );
            }
        }
        let Database { driver, source, source_file, hosts, .. } = &self.data.database;
        if *driver == Driver::Sqlite && !hosts.is_empty() {
            bail!("config key data.database.hosts: needs data.database.driver: mysql");
        }
        let understood = match driver {
            Driver::Mysql => dsn::mysql_nodes(source.reveal(), hosts).map(|_| ()),
            Driver::Sqlite => dsn::sqlite(source.reveal()).map(|_| ()),
        };
        let key = if source_file.is_some() { "source_file" } else { "source" };
        understood.map_err(|why| anyhow!("config key data.database.{key}: {why}"))?;
        self.data.database.client_tls()?;
        Ok(())
    }

    /// Refuses an open door in production. A server calls this at its start; other programs open no
    /// port to callers.
    ///
    /// # Errors
    /// The key of the first open door.
    pub fn refuse_open_doors(&self) -> anyhow::Result<()> {
        let forbids = self.environment == Some(Environment::Production) && !self.server.insecure;
        if let Some((key, danger)) = self.open_doors().first().filter(|_| forbids) {
            bail!(
                "config key {key}: {danger}, which environment: production forbids; docs/security.md says how to close it, and server.insecure: true allows it"
            );
        }
        Ok(())
    }

    /// The keys that leave a door open, with the danger of each.
    pub fn open_doors(&self) -> Vec<(&'static str, &'static str)> {
        let mut open = self.server.open_doors();
        if self.payment_service.as_ref().is_some_and(|payment| payment.callback_auth() == CallbackAuth::None) {
            open.push(("payment_service.callback_auth", "is none, so a forged callback credits a top-up"));
        }
        open
    }

    /// The thresholds below which accounts are reported as low.
    pub fn low_thresholds(&self) -> Thresholds {
        Thresholds { balance: self.billing.balance_low_threshold, quota: self.billing.quota_low_percent_threshold }
    }

    /// The billable services.
    pub fn catalog(&self) -> Catalog {
        let by_unit = self.billing.prices.iter().map(|(name, price)| (name, Price::Unit(*price)));
        let by_model = self.billing.model_services.iter().map(|(name, counts)| {
            let quota_unit = match (counts.0, self.billing.quota_weights.get(name)) {
                (QuotaUnit::Tokens(_), Some(weights)) => QuotaUnit::Tokens(weights.0),
                (unit, _) => unit,
            };
            (name, Price::Model(quota_unit))
        });
        let services: Vec<_> = by_unit
            .chain(by_model)
            .map(|(name, price)| {
                let free_quota = self.billing.free_quotas.get(name).map_or(0, |quota| quota.units());
                let policy = self.billing.reservations.get(name).copied().map(Policy::from).unwrap_or_default();
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
        let (default, others): (Vec<_>, Vec<_>) =
            self.billing.plans.iter().partition(|(name, _)| *name == PlanName::DEFAULT);
        let mut catalog = Catalog::new(default.first().map_or_else(|| services.clone(), |(_, plan)| of_plan(plan)));
        for (name, plan) in others {
            catalog.add_plan(PlanName::from_stored(name), of_plan(plan));
        }
        catalog
    }

    /// The calendar of the billing zone.
    pub fn calendar(&self, clock: impl Clock) -> Calendar {
        let close_after = TimeDelta::from_std(self.billing.close_after).unwrap_or(DEFAULT_CLOSE_AFTER);
        Calendar::new(self.billing.timezone, clock).closing_after(close_after)
    }

    /// The configured token prices.
    pub fn price_book(&self) -> PriceBook {
        let mut book = models::book(&self.billing.models);
        for (name, plan) in &self.billing.plans {
            book.add_plan(PlanName::from_stored(name), plan.model_prices());
        }
        book
    }
}

/// The source without its password.
fn shown_source<S: Serializer>(source: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&dsn::redacted(source.reveal()))
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

impl Default for Log {
    fn default() -> Self {
        Self { level: tracing::Level::INFO, format: LogFormat::Text }
    }
}

fn default_connections() -> usize {
    16
}

fn default_connect_timeout() -> Duration {
    Duration::from_secs(30)
}

fn default_acquire_timeout() -> Duration {
    Duration::from_secs(2)
}

fn default_max_clock_skew() -> Duration {
    Duration::from_secs(5)
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

fn default_close_after() -> Duration {
    Duration::from_secs(72 * 3_600)
}

fn default_currency() -> Currency {
    Currency::CNY
}

#[cfg(test)]
mod loaded_tests;
#[cfg(test)]
mod tests;
