//! The configuration: a YAML file, each key of which the environment can override.
//!
//! `configs/*.yaml` document every key. An unknown key or a bad value is an error
//! that names the key.

mod values;

use std::{collections::BTreeMap, fmt, path::Path, time::Duration};

use anyhow::{Context, anyhow, bail};
use serde::Deserialize;

use crate::biz::{
    catalog::{Catalog, Plan},
    ids::ServiceName,
    money::Money,
};

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(default)]
    pub server: Server,
    pub data: Data,
    pub billing: Billing,
    pub payment_service: Option<PaymentService>,
    #[serde(default)]
    pub log: Log,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    pub http: Http,
    pub grpc: Grpc,
    pub limits: ServerLimits,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    #[serde(deserialize_with = "values::address")]
    pub addr: String,
    #[serde(deserialize_with = "values::duration")]
    pub timeout: Duration,
    #[serde(deserialize_with = "values::style")]
    pub style: Style,
    pub internal_routes: bool,
}

/// How REST replies are dressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Style {
    /// The message itself, snake_case names.
    #[default]
    Plain,
    /// lowerCamelCase names inside `{"success":true,"data":...}`.
    Devshare,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grpc {
    #[serde(deserialize_with = "values::address")]
    pub addr: String,
    #[serde(deserialize_with = "values::duration")]
    pub timeout: Duration,
    /// Callers of the internal service must bring one of these; none: no check.
    #[serde(deserialize_with = "values::secrets")]
    pub internal_tokens: Vec<Secret>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerLimits {
    #[serde(deserialize_with = "values::up_to_a_million")]
    pub connections: usize,
    #[serde(deserialize_with = "values::up_to_a_million")]
    pub requests: usize,
    #[serde(deserialize_with = "values::body_bytes")]
    pub body_bytes: usize,
    #[serde(deserialize_with = "values::duration")]
    pub drain_timeout: Duration,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    pub database: Database,
    pub redis: Option<Redis>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    #[serde(deserialize_with = "values::driver")]
    pub driver: Driver,
    pub source: Secret,
    #[serde(default = "default_connections", deserialize_with = "values::up_to_a_thousand")]
    pub max_connections: usize,
    #[serde(default = "default_connect_timeout", deserialize_with = "values::duration")]
    pub connect_timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    Mysql,
    Sqlite,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redis {
    #[serde(deserialize_with = "values::address")]
    pub addr: String,
    #[serde(default = "default_redis_timeout", deserialize_with = "values::duration")]
    pub read_timeout: Duration,
    #[serde(default = "default_redis_timeout", deserialize_with = "values::duration")]
    pub write_timeout: Duration,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Billing {
    #[serde(deserialize_with = "values::prices")]
    pub prices: BTreeMap<String, Money>,
    #[serde(default)]
    pub free_quotas: BTreeMap<String, values::FreeQuota>,
    #[serde(default = "default_balance_low", deserialize_with = "values::amount")]
    pub balance_low_threshold: Money,
    #[serde(default = "default_quota_low", deserialize_with = "values::percent")]
    pub quota_low_percent_threshold: f64,
    #[serde(default = "default_timezone", deserialize_with = "values::timezone")]
    pub timezone: chrono_tz::Tz,
    #[serde(default = "default_currency", deserialize_with = "values::currency")]
    pub currency: String,
    #[serde(default)]
    pub settlement: Settlement,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settlement {
    /// 0: what suits the database.
    #[serde(deserialize_with = "values::lanes")]
    pub lanes: usize,
    #[serde(deserialize_with = "values::up_to_a_million")]
    pub queue: usize,
    #[serde(deserialize_with = "values::batch")]
    pub batch: usize,
    #[serde(deserialize_with = "values::duration")]
    pub patience: Duration,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PaymentService {
    #[serde(deserialize_with = "values::address")]
    pub grpc_addr: String,
    #[serde(default = "default_payment_timeout", deserialize_with = "values::duration")]
    pub timeout: Duration,
    #[serde(default)]
    pub return_url: String,
    #[serde(default)]
    pub notify_url: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    #[serde(deserialize_with = "values::log_level")]
    pub level: tracing::Level,
    #[serde(deserialize_with = "values::log_format")]
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// A text that must not be printed.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text itself; mind where it goes.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Config {
    /// Reads `path` and the environment.
    ///
    /// # Errors
    /// Names the file or the key, and what is wrong with it.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let environment = config::Environment::with_prefix("BILLING").prefix_separator("__").separator("__");
        Self::read(path, environment)
    }

    fn read(path: &Path, environment: config::Environment) -> anyhow::Result<Self> {
        if !path.is_file() {
            bail!("config file {} not found", path.display());
        }
        let merged = config::Config::builder()
            .add_source(config::File::from(path).format(config::FileFormat::Yaml))
            .add_source(environment)
            .build()
            .with_context(|| format!("config file {}", path.display()))?;
        let config: Config = serde_path_to_error::deserialize(merged).map_err(|error| {
            let key = error.path().to_string();
            let why = match error.into_inner() {
                // The cause alone: its own path repeats ours.
                config::ConfigError::At { error, .. } => error.to_string(),
                other => other.to_string(),
            };
            if key == "." { anyhow!("config: {why}") } else { anyhow!("config key {key}: {why}") }
        })?;
        config.check()?;
        Ok(config)
    }

    /// What no single key can tell.
    fn check(&self) -> anyhow::Result<()> {
        if self.billing.prices.is_empty() {
            bail!("config key billing.prices: names no service");
        }
        for name in self.billing.free_quotas.keys() {
            if !self.billing.prices.contains_key(name) {
                bail!("config key billing.free_quotas.{name}: the service has no price in billing.prices");
            }
        }
        let source = self.data.database.source.reveal();
        let understood = match self.data.database.driver {
            Driver::Mysql => crate::data::dsn::mysql(source).map(|_| ()),
            Driver::Sqlite => crate::data::dsn::sqlite(source).map(|_| ()),
        };
        understood.map_err(|why| anyhow!("config key data.database.source: {why}"))?;
        Ok(())
    }

    /// The services that can be billed.
    pub fn catalog(&self) -> Catalog {
        Catalog::new(self.billing.prices.iter().map(|(name, price)| {
            let plan =
                Plan { price: *price, free_quota: self.billing.free_quotas.get(name).map_or(0, |quota| quota.units()) };
            (ServiceName::from_stored(name.as_str()), plan)
        }))
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            addr: "0.0.0.0:8107".into(),
            timeout: Duration::from_secs(1),
            style: Style::Plain,
            internal_routes: false,
        }
    }
}

impl Default for Grpc {
    fn default() -> Self {
        Self { addr: "0.0.0.0:9107".into(), timeout: Duration::from_secs(1), internal_tokens: Vec::new() }
    }
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self { connections: 10_000, requests: 20_000, body_bytes: 1024 * 1024, drain_timeout: Duration::from_secs(30) }
    }
}

impl Default for Settlement {
    fn default() -> Self {
        Self { lanes: 0, queue: 8_192, batch: 512, patience: Duration::from_secs(10) }
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

fn default_redis_timeout() -> Duration {
    Duration::from_millis(200)
}

fn default_payment_timeout() -> Duration {
    Duration::from_secs(5)
}

fn default_balance_low() -> Money {
    Money::from_micros(10_000_000)
}

fn default_quota_low() -> f64 {
    20.0
}

fn default_timezone() -> chrono_tz::Tz {
    chrono_tz::Asia::Shanghai
}

fn default_currency() -> String {
    "CNY".into()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const EXISTING: &str = "
server:
  http: {addr: 0.0.0.0:8107, timeout: 1s}
  grpc: {addr: 0.0.0.0:9107, timeout: 1s}
data:
  database:
    driver: mysql
    source: root:password@tcp(127.0.0.1:3306)/billing_service?charset=utf8mb4&parseTime=True&loc=Local
  redis: {addr: 127.0.0.1:6379, read_timeout: 0.2s, write_timeout: 0.2s}
billing:
  prices: {passport: 0.01, payment: 0.10, asset: 0.05}
  free_quotas: {passport: 10000, payment: 1000, asset: 1000}
  balance_low_threshold: 10.0
  quota_low_percent_threshold: 20.0
payment_service:
  grpc_addr: 127.0.0.1:9101
  timeout: 5s
  return_url: http://localhost/return
  notify_url: http://localhost/notify
";

    fn read(yaml: &str, environment: &[(&str, &str)]) -> anyhow::Result<Config> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(yaml.as_bytes()).unwrap();
        let environment: std::collections::HashMap<String, String> =
            environment.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        let source = config::Environment::with_prefix("BILLING")
            .prefix_separator("__")
            .separator("__")
            .source(Some(environment));
        Config::read(file.path(), source)
    }

    #[test]
    fn an_existing_file_works_unchanged() {
        let config = read(EXISTING, &[]).unwrap();
        assert_eq!(config.server.http.timeout, Duration::from_secs(1));
        assert_eq!(config.data.redis.as_ref().unwrap().read_timeout, Duration::from_millis(200));
        assert_eq!(config.billing.timezone, chrono_tz::Asia::Shanghai);
        let catalog = config.catalog();
        let (_, plan) = catalog.find("payment").unwrap();
        assert_eq!((plan.price.to_string().as_str(), plan.free_quota), ("0.1", 1000));
    }

    #[test]
    fn the_environment_overrides_every_kind_of_key() {
        let config = read(
            EXISTING,
            &[
                ("BILLING__DATA__DATABASE__SOURCE", "u:12345@tcp(db:3306)/other"),
                ("BILLING__DATA__DATABASE__MAX_CONNECTIONS", "3"),
                ("BILLING__BILLING__PRICES__PASSPORT", "0.020001"),
                ("BILLING__SERVER__HTTP__TIMEOUT", "1.5s"),
                ("BILLING__SERVER__GRPC__INTERNAL_TOKENS", "0123456789abcdef, fedcba9876543210"),
                ("BILLING__SERVER__HTTP__INTERNAL_ROUTES", "true"),
            ],
        )
        .unwrap();
        assert!(config.data.database.source.reveal().ends_with("/other"));
        assert_eq!(config.data.database.max_connections, 3);
        assert_eq!(config.server.grpc.internal_tokens[1].reveal(), "fedcba9876543210");
        assert_eq!(config.billing.prices["passport"].to_string(), "0.020001");
        assert_eq!(config.server.http.timeout, Duration::from_millis(1500));
        assert!(config.server.http.internal_routes);
    }

    #[test]
    fn a_bad_key_or_value_is_named() {
        for (from, to, key) in [
            ("timeout: 1s}\n  grpc", "timeout: soon}\n  grpc", "server.http.timeout"),
            ("timeout: 1s}\n  grpc", "timeout: 1}\n  grpc", "server.http.timeout"),
            ("timeout: 1s}\n  grpc", "timeout: 0s}\n  grpc", "server.http.timeout"),
            ("addr: 0.0.0.0:9107", "addr: 9107", "server.grpc.addr"),
            ("addr: 0.0.0.0:9107", "address: 0.0.0.0:9107", "address"),
            ("driver: mysql", "driver: oracle", "data.database.driver"),
            ("driver: mysql", "drive: mysql", "drive"),
            ("root:password@tcp(127.0.0.1:3306)/", "root:password@tcp(127.0.0.1:x)/", "data.database.source"),
            ("passport: 0.01", "passport: -0.01", "billing.prices.passport"),
            ("passport: 0.01", "passport: 0.0000001", "billing.prices.passport"),
            ("passport: 0.01", "passport: cheap", "billing.prices.passport"),
            ("passport: 0.01", "pass port: 0.01", "pass port"),
            ("passport: 10000", "passport: -1", "billing.free_quotas.passport"),
            ("passport: 10000", "passport: 1.9", "billing.free_quotas.passport"),
            ("billing:\n", "log: {level: verbose}\nbilling:\n", "log.level"),
            ("passport: 10000", "passport: 2147483648", "billing.free_quotas.passport"),
            ("passport: 10000", "passprt: 10000", "billing.free_quotas.passprt"),
            ("quota_low_percent_threshold: 20.0", "quota_low_percent_threshold: 120", "quota_low_percent_threshold"),
            ("balance_low_threshold: 10.0", "timezone: Mars/Olympus", "billing.timezone"),
            ("balance_low_threshold: 10.0", "currency: yuan", "billing.currency"),
            ("balance_low_threshold: 10.0", "settlement: {lanes: many}", "billing.settlement.lanes"),
            ("balance_low_threshold: 10.0", "settlement: {queue: 0}", "billing.settlement.queue"),
            ("balance_low_threshold: 10.0", "settlement: {batch: 9000000000}", "billing.settlement.batch"),
            ("payment_service:", "payment_services:", "payment_services"),
        ] {
            assert!(EXISTING.contains(from), "{from}");
            let error = read(&EXISTING.replace(from, to), &[]).unwrap_err();
            let message = format!("{error:#}");
            assert!(message.contains(key), "{to}: {message}");
            assert!(!message.contains("root:password"), "{message}");
        }
        let error = read(EXISTING, &[("BILLING__SERVER__HTPP__ADDR", "x")]).unwrap_err();
        assert!(format!("{error:#}").contains("htpp"), "{error:#}");
        let error = read(&EXISTING.replace("billing:\n", "billing:\n  extra: 1\n"), &[]).unwrap_err();
        assert!(format!("{error:#}").contains("extra"), "{error:#}");
        let error = read(EXISTING, &[("BILLING__SERVER__GRPC__INTERNAL_TOKENS", "tooshort")]).unwrap_err();
        let message = format!("{error:#}");
        assert!(message.contains("internal_tokens") && !message.contains("tooshort"), "{message}");
        let number = EXISTING.replace("addr: 0.0.0.0:9107", "internal_tokens: 1234567890123456");
        let message = format!("{:#}", read(&number, &[]).unwrap_err());
        assert!(message.contains("internal_tokens") && !message.contains("1234567890123456"), "{message}");
        let error = read("server: {}", &[]).unwrap_err();
        assert!(format!("{error:#}").contains("data"), "{error:#}");
    }

    #[test]
    fn secrets_do_not_show() {
        let shown = format!("{:?}", read(EXISTING, &[]).unwrap());
        assert!(!shown.contains("password@"), "{shown}");
    }
}
