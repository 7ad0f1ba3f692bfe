//! The configuration: a YAML file, whose keys the environment can override.
//!
//! `configs/*.yaml` document every key. An unknown key or an invalid value is an error that names the
//! key.

mod access;
mod billing;
mod check;
mod choices;
mod cron;
mod database;
mod events;
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
mod settlement;
mod shown;
mod values;

use serde::{Deserialize, Serialize};

use self::shown::shown;
pub use self::{
    access::{CallerConfig, JwtConfig},
    billing::Billing,
    choices::{
        CallbackAuth, Driver, Environment, FrontEndAuth, JwtAlgorithm, LogFormat, RedisMode, Role, ShowReads, Style,
        UnknownFields,
    },
    database::Database,
    loaded::Loaded,
    metering::Streams,
    payment::PaymentServiceConfig,
    rates::RateLimitsConfig,
    redis::Redis,
    secret::Secret,
    server::{HttpPort, Server, ServerLimits, ServerTls},
    settlement::SettlementConfig,
};
use crate::biz::{
    account::catalog::Catalog,
    charge::prices::PriceBook,
    jobs::low_balance::Thresholds,
    values::calendar::{Calendar, Clock},
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
#[serde(deny_unknown_fields, default)]
pub struct Log {
    #[serde(deserialize_with = "choices::word", serialize_with = "shown")]
    pub level: tracing::Level,
    #[serde(deserialize_with = "choices::word", serialize_with = "shown")]
    pub format: LogFormat,
}

impl Config {
    /// The thresholds below which accounts are reported as low.
    pub fn low_thresholds(&self) -> Thresholds {
        self.billing.low_thresholds()
    }

    /// The billable services.
    pub fn catalog(&self) -> Catalog {
        self.billing.catalog()
    }

    /// The calendar of the billing zone.
    pub fn calendar(&self, clock: impl Clock) -> Calendar {
        self.billing.calendar(clock)
    }

    /// The configured token prices.
    pub fn price_book(&self) -> PriceBook {
        self.billing.price_book()
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: tracing::Level::INFO, format: LogFormat::Text }
    }
}

#[cfg(test)]
mod loaded_tests;
#[cfg(test)]
mod tests;
