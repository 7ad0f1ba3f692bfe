//! The configuration: a YAML file, each key of which the environment can override.
//!
//! `configs/*.yaml` document every key. An unknown key or a bad value is an error
//! that names the key.

use std::{collections::BTreeMap, fmt, path::Path, time::Duration};

use anyhow::{Context, anyhow, bail};
use serde::{Deserialize, Deserializer, de};

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
    #[serde(deserialize_with = "address")]
    pub addr: String,
    #[serde(deserialize_with = "duration")]
    pub timeout: Duration,
    pub style: Style,
    pub internal_routes: bool,
}

/// How REST replies are dressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
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
    #[serde(deserialize_with = "address")]
    pub addr: String,
    #[serde(deserialize_with = "duration")]
    pub timeout: Duration,
    /// Callers of the internal service must bring one of these; none: no check.
    #[serde(deserialize_with = "secrets")]
    pub internal_tokens: Vec<Secret>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerLimits {
    #[serde(deserialize_with = "positive")]
    pub connections: usize,
    #[serde(deserialize_with = "positive")]
    pub body_bytes: usize,
    #[serde(deserialize_with = "duration")]
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
    pub driver: Driver,
    pub source: Secret,
    #[serde(default = "default_connections", deserialize_with = "positive")]
    pub max_connections: usize,
    #[serde(default = "default_connect_timeout", deserialize_with = "duration")]
    pub connect_timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    Mysql,
    Sqlite,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redis {
    #[serde(deserialize_with = "address")]
    pub addr: String,
    #[serde(default = "default_redis_timeout", deserialize_with = "duration")]
    pub read_timeout: Duration,
    #[serde(default = "default_redis_timeout", deserialize_with = "duration")]
    pub write_timeout: Duration,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Billing {
    #[serde(deserialize_with = "prices")]
    pub prices: BTreeMap<String, Money>,
    #[serde(default)]
    pub free_quotas: BTreeMap<String, FreeQuota>,
    #[serde(default = "default_balance_low", deserialize_with = "amount")]
    pub balance_low_threshold: Money,
    #[serde(default = "default_quota_low", deserialize_with = "percent")]
    pub quota_low_percent_threshold: f64,
    #[serde(default = "default_timezone", deserialize_with = "timezone")]
    pub timezone: chrono_tz::Tz,
    #[serde(default = "default_currency", deserialize_with = "currency")]
    pub currency: String,
    #[serde(default)]
    pub settlement: Settlement,
}

/// Units a month, as far as the tables hold them.
#[derive(Debug, Clone, Copy)]
pub struct FreeQuota(u32);

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settlement {
    /// 0: what suits the database.
    pub lanes: usize,
    #[serde(deserialize_with = "positive")]
    pub queue: usize,
    #[serde(deserialize_with = "positive")]
    pub batch: usize,
    #[serde(deserialize_with = "duration")]
    pub patience: Duration,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PaymentService {
    #[serde(deserialize_with = "address")]
    pub grpc_addr: String,
    #[serde(default = "default_payment_timeout", deserialize_with = "duration")]
    pub timeout: Duration,
    #[serde(default)]
    pub return_url: String,
    #[serde(default)]
    pub notify_url: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    pub level: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
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
        if self.server.http.timeout.is_zero() || self.server.grpc.timeout.is_zero() {
            bail!("config key server.*.timeout: must be above zero");
        }
        Ok(())
    }

    /// The services that can be billed.
    pub fn catalog(&self) -> Catalog {
        Catalog::new(self.billing.prices.iter().map(|(name, price)| {
            let plan =
                Plan { price: *price, free_quota: self.billing.free_quotas.get(name).map_or(0, |quota| quota.0) };
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
        Self { connections: 10_000, body_bytes: 1024 * 1024, drain_timeout: Duration::from_secs(30) }
    }
}

impl Default for Settlement {
    fn default() -> Self {
        Self { lanes: 0, queue: 8_192, batch: 512, patience: Duration::from_secs(10) }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text }
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

/// `1s`, `0.2s`, `200ms`, `5m`, `1h`.
fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text)
        .ok_or_else(|| de::Error::custom(format!("{text:?} is not a duration such as 1s, 0.2s, 200ms or 5m")))
}

fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit_ms) = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)]
        .into_iter()
        .find_map(|(unit, ms)| Some((text.strip_suffix(unit)?, ms)))?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |s: &str| s.len() <= 9 && s.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        return None;
    }
    let nanos: u64 = format!("{whole}{fraction:0<9}").parse().ok()?;
    nanos.checked_mul(unit_ms).map(|scaled| Duration::from_nanos(scaled / 1_000))
}

/// `host:port`, or `:port` for every address of the machine.
fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    let port = text.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    match port {
        Some(_) if text.starts_with(':') => Ok(format!("0.0.0.0{text}")),
        Some(_) => Ok(text),
        None => Err(de::Error::custom(format!("{text:?} is not an address such as 0.0.0.0:8107"))),
    }
}

fn positive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    match usize::deserialize(deserializer)? {
        0 => Err(de::Error::custom("must be above zero")),
        number => Ok(number),
    }
}

/// A number of YAML by its shortest decimal form, or a text.
struct Amount(Money);

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let amount: Money = text.parse().map_err(|why| de::Error::custom(format!("{text:?} {why}")))?;
        if amount.is_negative() {
            return Err(de::Error::custom("must not be negative"));
        }
        Ok(Self(amount))
    }
}

fn amount<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Money, D::Error> {
    Amount::deserialize(deserializer).map(|amount| amount.0)
}

fn prices<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, Money>, D::Error> {
    let prices = BTreeMap::<String, Amount>::deserialize(deserializer)?;
    for name in prices.keys() {
        ServiceName::parse(name, name).map_err(|why| de::Error::custom(format!("service {why}")))?;
    }
    Ok(prices.into_iter().map(|(name, amount)| (name, amount.0)).collect())
}

impl<'de> Deserialize<'de> for FreeQuota {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let units = i64::deserialize(deserializer)?;
        i32::try_from(units)
            .ok()
            .and_then(|units| u32::try_from(units).ok())
            .map(Self)
            .ok_or_else(|| de::Error::custom(format!("{units} is not a number of units from 0 to {}", i32::MAX)))
    }
}

fn percent<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let percent = f64::deserialize(deserializer)?;
    if (0.0..=100.0).contains(&percent) { Ok(percent) } else { Err(de::Error::custom("must be from 0 to 100")) }
}

fn timezone<'de, D: Deserializer<'de>>(deserializer: D) -> Result<chrono_tz::Tz, D::Error> {
    let name = String::deserialize(deserializer)?;
    name.parse().map_err(|_| de::Error::custom(format!("{name:?} is not a time zone such as Asia/Shanghai")))
}

fn currency<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let code = String::deserialize(deserializer)?;
    if code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_uppercase()) {
        Ok(code)
    } else {
        Err(de::Error::custom(format!("{code:?} is not a currency code such as CNY")))
    }
}

fn secrets<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Secret>, D::Error> {
    let secrets = Vec::<Secret>::deserialize(deserializer)?;
    if secrets.iter().any(|secret| secret.0.len() < 16) {
        return Err(de::Error::custom("a token must have at least 16 characters"));
    }
    Ok(secrets)
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
                ("BILLING__SERVER__HTTP__INTERNAL_ROUTES", "true"),
            ],
        )
        .unwrap();
        assert!(config.data.database.source.reveal().ends_with("/other"));
        assert_eq!(config.data.database.max_connections, 3);
        assert_eq!(config.billing.prices["passport"].to_string(), "0.020001");
        assert_eq!(config.server.http.timeout, Duration::from_millis(1500));
        assert!(config.server.http.internal_routes);
    }

    #[test]
    fn a_bad_key_or_value_is_named() {
        for (from, to, key) in [
            ("timeout: 1s}\n  grpc", "timeout: soon}\n  grpc", "server.http.timeout"),
            ("timeout: 1s}\n  grpc", "timeout: 1}\n  grpc", "server.http.timeout"),
            ("timeout: 1s}\n  grpc", "timeout: 0s}\n  grpc", "timeout"),
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
            ("passport: 10000", "passport: 2147483648", "billing.free_quotas.passport"),
            ("passport: 10000", "passprt: 10000", "billing.free_quotas.passprt"),
            ("quota_low_percent_threshold: 20.0", "quota_low_percent_threshold: 120", "quota_low_percent_threshold"),
            ("balance_low_threshold: 10.0", "timezone: Mars/Olympus", "billing.timezone"),
            ("balance_low_threshold: 10.0", "currency: yuan", "billing.currency"),
            ("balance_low_threshold: 10.0", "settlement: {lanes: many}", "billing.settlement.lanes"),
            ("balance_low_threshold: 10.0", "settlement: {queue: 0}", "billing.settlement.queue"),
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
        let error = read("server: {}", &[]).unwrap_err();
        assert!(format!("{error:#}").contains("data"), "{error:#}");
    }

    #[test]
    fn secrets_do_not_show() {
        let shown = format!("{:?}", read(EXISTING, &[]).unwrap());
        assert!(!shown.contains("password@"), "{shown}");
    }
}
