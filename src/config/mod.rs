//! The configuration: a YAML file, whose keys the environment can override.
//!
//! `configs/*.yaml` document every key. An unknown key or an invalid value is an error that names the
//! key.

mod access;
mod billing;
mod check;
mod choices;
mod console;
mod cron;
mod database;
mod events;
mod loaded;
mod log;
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
mod telemetry;
mod values;
mod webhooks;

use serde::{Deserialize, Serialize};

use self::shown::shown;
pub use self::{
    access::{CallerConfig, JwtConfig},
    billing::Billing,
    choices::{
        CallbackAuth, Driver, Environment, FrontEndAuth, JwtAlgorithm, LogFormat, RedisMode, RequestLines, Role,
        ShowReads, Style, UnknownFields, WholeAudits,
    },
    console::ConsoleConfig,
    cron::CronConfig,
    database::Database,
    loaded::Loaded,
    log::Log,
    metering::Streams,
    payment::PaymentServiceConfig,
    rates::RateLimitsConfig,
    redis::Redis,
    secret::Secret,
    server::{HttpPort, Server, ServerLimits, ServerTls},
    settlement::SettlementConfig,
    telemetry::{SampleRatio, TelemetryConfig},
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
    pub console: ConsoleConfig,
    #[serde(default)]
    pub cron: CronConfig,
    #[serde(default)]
    pub log: Log,
    #[serde(default)]
    pub telemetry: TelemetryConfig,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    pub database: Database,
    pub redis: Option<Redis>,
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

#[cfg(test)]
mod loaded_tests;
#[cfg(test)]
mod tests;
