use std::{collections::BTreeSet, io::Write, path::Path, time::Duration};

use super::*;
use crate::{
    biz::account::catalog::{Price, QuotaUnit},
    data::dsn::Host,
};

pub(super) const EXISTING: &str = "
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
    load(yaml, environment).map(|loaded| loaded.config)
}

pub(super) fn load(yaml: &str, environment: &[(&str, &str)]) -> anyhow::Result<Loaded> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(yaml.as_bytes()).unwrap();
    let environment: std::collections::HashMap<String, String> =
        environment.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    let source =
        config::Environment::with_prefix("BILLING").prefix_separator("__").separator("__").source(Some(environment));
    Loaded::read(file.path(), source)
}

#[test]
fn older_key_names_are_still_read_and_conflict_with_the_newer_ones() {
    let older = EXISTING
        .replace("    driver: mysql", "    driver: mysql\n    former_zone: Europe/Berlin")
        .replace("billing:\n", "billing:\n  settlement: {patience: 7s}\n");
    let config = read(&older, &[]).unwrap();
    assert_eq!(config.data.database.legacy_zone, Some(chrono_tz::Europe::Berlin));
    assert_eq!(config.billing.settlement.retry_timeout, Duration::from_secs(7));
    let both = older.replace("patience: 7s", "patience: 7s, retry_timeout: 7s");
    let refused = format!("{:#}", read(&both, &[]).unwrap_err());
    assert!(refused.contains("retry_timeout"), "{refused}");
}

#[test]
fn an_existing_file_works_unchanged() {
    let config = read(EXISTING, &[]).unwrap();
    assert_eq!(config.server.http.timeout, Duration::from_secs(1));
    assert_eq!(config.data.redis.as_ref().unwrap().read_timeout, Duration::from_millis(200));
    assert_eq!(config.billing.timezone, chrono_tz::Asia::Shanghai);
    let low = config.low_thresholds();
    assert_eq!((low.balance.to_string().as_str(), low.quota.hundredths()), ("10", 2_000));
    let catalog = config.catalog();
    let (_, terms) = catalog.find("payment").unwrap();
    assert_eq!((terms.price, terms.free_quota), (Price::Unit("0.1".parse().unwrap()), 1000));
}

#[test]
fn the_environment_overrides_every_kind_of_key() {
    let config = read(
        EXISTING,
        &[
            ("BILLING__DATA__DATABASE__SOURCE", "u:12345@tcp(db:3306)/other"),
            ("BILLING__DATA__DATABASE__MAX_CONNECTIONS", "3"),
            ("BILLING__DATA__DATABASE__LEGACY_ZONE", "Europe/Berlin"),
            ("BILLING__BILLING__PRICES__PASSPORT", "0.020001"),
            ("BILLING__BILLING__QUOTA_LOW_PERCENT_THRESHOLD", "2.29"),
            ("BILLING__SERVER__HTTP__TIMEOUT", "1.5s"),
            ("BILLING__SERVER__GRPC__INTERNAL_TOKENS", "0123456789abcdef, fedcba9876543210"),
            ("BILLING__SERVER__HTTP__INTERNAL_ROUTES", "true"),
            ("BILLING__BILLING__RATE_LIMITS__API_KEY__MINUTE", "600"),
        ],
    )
    .unwrap();
    assert!(config.data.database.source.reveal().ends_with("/other"));
    assert_eq!(config.data.database.max_connections, 3);
    assert_eq!(config.data.database.legacy_zone, Some(chrono_tz::Europe::Berlin));
    assert_eq!(config.server.grpc.internal_tokens[1].reveal(), "fedcba9876543210");
    assert_eq!(config.billing.prices["passport"].to_string(), "0.020001");
    assert_eq!(config.billing.quota_low_percent_threshold.hundredths(), 229);
    assert_eq!(config.server.http.timeout, Duration::from_millis(1500));
    assert!(config.server.http.internal_routes);
    assert_eq!(config.billing.rate_limits.api_key.minute.map(u32::from), Some(600));
}

#[test]
fn a_bad_key_or_value_is_named() {
    for (from, to, key) in [
        ("timeout: 1s}\n  grpc", "timeout: soon}\n  grpc", "server.http.timeout"),
        ("timeout: 1s}\n  grpc", "timeout: 1}\n  grpc", "server.http.timeout"),
        ("timeout: 1s}\n  grpc", "timeout: 0s}\n  grpc", "server.http.timeout"),
        ("addr: 0.0.0.0:9107", "addr: 9107", "server.grpc.addr"),
        ("addr: 0.0.0.0:9107", "address: 0.0.0.0:9107", "address"),
        ("addr: 0.0.0.0:9107, timeout: 1s}", "addr: 0.0.0.0:9107}\n  tls: {cert_file: a}", "server.tls"),
        ("addr: 0.0.0.0:9107, timeout: 1s}", "addr: 0.0.0.0:9107}\n  tls: {key: a}", "server.tls"),
        ("timeout: 1s}\ndata", "timeout: 1s}\n  limits: {connections: 0}\ndata", "server.limits.connections"),
        (
            "timeout: 1s}\ndata",
            "timeout: 1s}\n  limits: {connections_per_address: -1}\ndata",
            "connections_per_address",
        ),
        ("timeout: 1s}\ndata", "timeout: 1s}\n  limits: {idle_timeout: 0s}\ndata", "server.limits.idle_timeout"),
        (
            "timeout: 1s}\ndata",
            "timeout: 1s}\n  limits: {reads_per_account: 0}\ndata",
            "server.limits.reads_per_account",
        ),
        ("timeout: 1s}\ndata", "timeout: 1s}\n  limits: {refusal_pause: 1}\ndata", "server.limits.refusal_pause"),
        ("timeout: 1s}\ndata", "timeout: 1s}\n  limits: {refusal_pause: 11s}\ndata", "server.limits.refusal_pause"),
        ("timeout: 1s}\ndata", "timeout: 1s}\n  limits: {write_timeout: 5}\ndata", "server.limits.write_timeout"),
        ("timeout: 1s}\ndata", "timeout: 1s}\n  limits: {max_connection_age: x}\ndata", "max_connection_age"),
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
        ("billing:\n", "log: {requests: some}\nbilling:\n", "log.requests"),
        ("billing:\n", "log: {slow_request: 0s}\nbilling:\n", "log.slow_request"),
        ("billing:\n", "log: {requests_per_second: 0}\nbilling:\n", "log.requests_per_second"),
        ("billing:\n", "telemetry: {otlp_endpoint: 'https://c:4317'}\nbilling:\n", "telemetry.otlp_endpoint"),
        ("billing:\n", "telemetry: {otlp_endpoint: 'c:4317'}\nbilling:\n", "telemetry.otlp_endpoint"),
        ("billing:\n", "telemetry: {otlp_endpoint: 'http://u:p@c:4317'}\nbilling:\n", "telemetry.otlp_endpoint"),
        ("billing:\n", "telemetry: {sample_ratio: 1.5}\nbilling:\n", "telemetry.sample_ratio"),
        ("billing:\n", "telemetry: {sample_ratio: NaN}\nbilling:\n", "telemetry.sample_ratio"),
        ("billing:\n", "telemetry: {service_name: ''}\nbilling:\n", "telemetry.service_name"),
        ("billing:\n", "telemetry: {parents_per_second: -1}\nbilling:\n", "telemetry.parents_per_second"),
        ("passport: 10000", "passport: 100000000000001", "billing.free_quotas.passport"),
        ("passport: 10000", "passprt: 10000", "billing.free_quotas.passprt"),
        ("quota_low_percent_threshold: 20.0", "quota_low_percent_threshold: 120", "quota_low_percent_threshold"),
        ("balance_low_threshold: 10.0", "timezone: Mars/Olympus", "billing.timezone"),
        ("driver: mysql", "driver: mysql\n    legacy_zone: Local", "data.database.legacy_zone"),
        ("driver: mysql", "driver: mysql\n    show_reads: stale", "data.database.show_reads"),
        ("driver: mysql", "driver: mysql\n    hosts: []", "data.database.hosts"),
        ("driver: mysql", "driver: mysql\n    hosts:", "data.database.hosts"),
        ("driver: mysql", "driver: mysql\n    hosts: ''", "data.database.hosts"),
        ("driver: mysql", "driver: mysql\n    hosts: {a: 1}", "data.database.hosts"),
        ("driver: mysql", "driver: mysql\n    hosts: [a, 'b:port']", "data.database.hosts: entry 2"),
        ("driver: mysql", "driver: mysql\n    hosts: [a, 'root:password@b']", "data.database.hosts: entry 2"),
        ("driver: mysql", "driver: mysql\n    hosts: 'a,,b'", "data.database.hosts: entry 2"),
        ("balance_low_threshold: 10.0", "close_after: 673h", "billing.close_after"),
        ("balance_low_threshold: 10.0", "sweep_interval: 61s", "billing.sweep_interval: must be from 1s to 60s"),
        ("balance_low_threshold: 10.0", "sweep_interval: 999ms", "billing.sweep_interval: must be from 1s to 60s"),
        ("balance_low_threshold: 10.0", "sweep_interval: 0s", "billing.sweep_interval"),
        ("balance_low_threshold: 10.0", "close_after: 0h", "billing.close_after"),
        ("balance_low_threshold: 10.0", "currency: yuan", "billing.currency"),
        ("balance_low_threshold: 10.0", "currency: cny", "billing.currency"),
        ("balance_low_threshold: 10.0", "currency: ABC", "billing.currency"),
        ("balance_low_threshold: 10.0", "currency: XAU", "billing.currency"),
        ("balance_low_threshold: 10.0", "settlement: {lanes: many}", "billing.settlement.lanes"),
        ("balance_low_threshold: 10.0", "settlement: {queue: 0}", "billing.settlement.queue"),
        ("balance_low_threshold: 10.0", "settlement: {batch: 9000000000}", "billing.settlement.batch"),
        ("balance_low_threshold: 10.0", "rate_limits: {user: {second: -1}}", "billing.rate_limits.user.second"),
        ("balance_low_threshold: 10.0", "record_months: 1201", "billing.record_months"),
        ("balance_low_threshold: 10.0", "alerts: {balance_below: [-1]}", "billing.alerts.balance_below"),
        ("balance_low_threshold: 10.0", "alerts: {quota_percent: [101]}", "billing.alerts.quota_percent"),
        ("balance_low_threshold: 10.0", "events: {keep: 1m}", "billing.events.keep"),
        ("balance_low_threshold: 10.0", "rate_limits: {user: {hour: 1000001}}", "billing.rate_limits.user.hour"),
        ("balance_low_threshold: 10.0", "rate_limits: {api_key: {minute: 0.5}}", "billing.rate_limits.api_key.minute"),
        ("balance_low_threshold: 10.0", "rate_limits: {api_key: {day: 5}}", "billing.rate_limits.api_key"),
        ("balance_low_threshold: 10.0", "model_services: {llm: words}", "billing.model_services.llm"),
        ("balance_low_threshold: 10.0", "model_services: {l m: calls}", "l m"),
        ("balance_low_threshold: 10.0", "model_services: {asset: calls}", "billing.model_services.asset"),
        ("balance_low_threshold: 10.0", "models: {m: {input: 1}}", "billing.models.m"),
        ("balance_low_threshold: 10.0", "models: {m: {input: -1, output: 1}}", "billing.models.m.input"),
        ("balance_low_threshold: 10.0", "models: {m: {input: 1, output: 1, ouput: 1}}", "billing.models.m"),
        ("balance_low_threshold: 10.0", "models: {m: {input: 1, output: 1, cached_input: x}}", "models.m.cached_input"),
        ("balance_low_threshold: 10.0", "models: {m: {input: 1, output: 1, effective_from: now}}", "effective_from"),
        ("balance_low_threshold: 10.0", "models: {m: []}", "billing.models.m"),
        ("balance_low_threshold: 10.0", "models: {m: 5}", "billing.models.m"),
        ("balance_low_threshold: 10.0", "models: {m: {input: 1, output: 1, image: -1}}", "billing.models.m.image"),
        (
            "balance_low_threshold: 10.0",
            "models: {m: {input: 1, output: 1, tiers: [{above_input_tokens: 0}]}}",
            "billing.models.m.tiers[0].above_input_tokens",
        ),
        ("balance_low_threshold: 10.0", "models: {m: {input: 1, output: 1, tiers: [{input: 1}]}}", "models.m.tiers[0]"),
        (
            "balance_low_threshold: 10.0",
            "models: {m: {input: 1, output: 1, service_tiers: {batch: -1}}}",
            "billing.models.m.service_tiers.batch",
        ),
        ("balance_low_threshold: 10.0", "models: {m: {input: 1, output: 1, aliases: ['*']}}", "billing.models.m"),
        ("balance_low_threshold: 10.0", "models: {m: {input: 1, output: 1, max_tokens: 0}}", "models.m.max_tokens"),
        ("balance_low_threshold: 10.0", "plans: {p: {multiplier: 1001}}", "billing.plans.p.multiplier"),
        ("balance_low_threshold: 10.0", "plans: {'a b': {}}", "a b"),
        ("balance_low_threshold: 10.0", "plans: {p: {prices: {nothing: 1}}}", "billing.plans.p.prices.nothing"),
        (
            "balance_low_threshold: 10.0",
            "plans: {p: {free_quotas: {nothing: 1}}}",
            "billing.plans.p.free_quotas.nothing",
        ),
        ("balance_low_threshold: 10.0", "plans: {p: {models: {m: {input: 1}}}}", "billing.plans.p.models.m"),
        ("balance_low_threshold: 10.0", "usage_sanity: 0", "billing.usage_sanity"),
        ("balance_low_threshold: 10.0", "quota_weights: {passport: {input: 2}}", "billing.quota_weights.passport"),
        (
            "balance_low_threshold: 10.0",
            "model_services: {llm: calls}\n  quota_weights: {llm: {input: 2}}",
            "billing.quota_weights.llm",
        ),
        (
            "balance_low_threshold: 10.0",
            "model_services: {llm: tokens}\n  quota_weights: {llm: {inputs: 2}}",
            "billing.quota_weights.llm",
        ),
        (
            "balance_low_threshold: 10.0",
            "models: {m: [{input: 1, output: 1}, {input: 2, output: 1}]}",
            "billing.models.m",
        ),
        ("balance_low_threshold: 10.0", "models: {m: [{input: 1, output: 0.0000001}]}", "billing.models.m[0].output"),
        ("balance_low_threshold: 10.0", "price_refresh: 0s", "billing.price_refresh"),
        ("balance_low_threshold: 10.0", "webhooks: {key: c2hvcnQ=}", "billing.webhooks.key"),
        ("balance_low_threshold: 10.0", "webhooks: {old_keys: [c2hvcnQ=]}", "billing.webhooks.old_keys"),
        (
            "balance_low_threshold: 10.0",
            "webhooks: {old_keys: [AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=]}",
            "billing.webhooks.old_keys",
        ),
        ("balance_low_threshold: 10.0", "webhooks: {ca_file: /no/such/file}", "billing.webhooks.ca_file"),
        ("balance_low_threshold: 10.0", "webhooks: {key_file: /no/such/file}", "billing.webhooks.key_file"),
        ("payment_service:", "payment_services:", "payment_services"),
        ("payment_service:", "payment_service:\n  forward_metadata: [x app]", "payment_service.forward_metadata"),
        ("payment_service:", "cron: {audit_all: hourly}\npayment_service:", "cron.audit_all"),
        ("payment_service:", "console: {idle_timeout: 13h}\npayment_service:", "console.idle_timeout"),
        ("payment_service:", "console: {max_age: 200h}\npayment_service:", "console.max_age"),
        ("payment_service:", "console: {key: PW-that-is-short}\npayment_service:", "console.key"),
        ("payment_service:", "console: {demo_user: a b}\npayment_service:", "console.demo_user"),
        ("payment_service:", "payment_service:\n  forward_metadata: [authorization]", "forward_metadata"),
        ("payment_service:", "payment_service:\n  forward_metadata: [grpc-timeout]", "forward_metadata"),
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
fn hosts_are_a_list_or_a_text_and_only_for_mysql() {
    let several = EXISTING.replace("driver: mysql", "driver: mysql\n    hosts: ['a:3307', b]");
    let hosts = |environment: &[(&str, &str)]| read(&several, environment).unwrap().data.database.hosts;
    let parsed = |texts: &[&str]| -> Vec<Host> { texts.iter().map(|text| text.parse().unwrap()).collect() };
    assert_eq!(hosts(&[]), parsed(&["a:3307", "b:3306"]));
    assert_eq!(hosts(&[("BILLING__DATA__DATABASE__HOSTS", "c, d:1")]), parsed(&["c", "d:1"]));
    let on_sqlite = [("BILLING__DATA__DATABASE__DRIVER", "sqlite"), ("BILLING__DATA__DATABASE__SOURCE", "a.db")];
    let message = format!("{:#}", read(&several, &on_sqlite).unwrap_err());
    assert!(message.contains("data.database.hosts"), "{message}");
}

#[test]
fn there_are_the_rate_limits_that_are_named_and_no_others() {
    let limits = |yaml: &str| {
        let config = read(&EXISTING.replace("balance_low_threshold: 10.0", yaml), &[]).unwrap();
        crate::biz::limits::rate_limit::RateLimits::from(config.billing.rate_limits)
    };
    for none in ["balance_low_threshold: 1", "rate_limits: {}", "rate_limits: {user: {second: 0}, api_key: {}}"] {
        assert!(limits(none).is_empty(), "{none}");
    }
    let some = limits("rate_limits: {user: {second: 1, minute: 20}, api_key: {hour: 1000000}}");
    let numbers = |rates: crate::biz::limits::rate_limit::Rates| rates.limits().map(|limit| limit.map_or(0, u32::from));
    assert_eq!((numbers(some.user), numbers(some.api_key)), ([1, 20, 0], [0, 0, 1_000_000]));
}

#[test]
fn secrets_do_not_show() {
    let shown = format!("{:?}", read(EXISTING, &[]).unwrap());
    assert!(!shown.contains("password@"), "{shown}");
}

#[test]
fn no_error_shows_a_password() {
    let source = "root:password@tcp(127.0.0.1:3306)/billing_service";
    for (key, value) in [
        ("BILLING__DATA__DATABASE__SOURCE", "billing:PW(127.0.0.1:3306)/b"),
        ("BILLING__DATA__DATABASE__SOURCE", "billing:PW@127.0.0.1:3306/b"),
        ("BILLING__DATA__DATABASE__SOURCE", "mysql://billing:PW@127.0.0.1:x/b"),
        ("BILLING__DATA__DATABASE", "billing:PW@tcp(127.0.0.1:3306)/b"),
        ("BILLING__DATA__REDIS", "redis://:PW@host"),
        ("BILLING__DATA__REDIS__ADDR", "redis://:PW@host"),
        ("BILLING__DATA__REDIS__ADDR", "redis://:PW@host:6379"),
        ("BILLING__DATA__REDIS__ADDR", "127.0.0.1:6379,:PW@host:6379"),
        ("BILLING__DATA__REDIS__ADDR", "redis://:PW"),
        ("BILLING__PAYMENT_SERVICE", "http://billing:PW@host:9101"),
        ("BILLING__PAYMENT_SERVICE__GRPC_ADDR", "http://billing:PW@host:9101"),
        ("BILLING__SERVER__HTTP__ADDR", "http://billing:PW@host:8107"),
        ("BILLING__SERVER", "http://billing:PW@host"),
        ("BILLING__BILLING__MODELS__M", "PW"),
        ("BILLING__SERVER__GRPC__INTERNAL_TOKENS", "PW"),
    ] {
        let message = format!("{:#}", read(EXISTING, &[(key, value)]).unwrap_err());
        assert!(!message.contains("PW"), "{key} {value}: {message}");
        let named = key.strip_prefix("BILLING__").unwrap().to_lowercase().replace("__", ".");
        let section = named.split('.').next().unwrap();
        assert!(message.contains(section), "{key} {value}: {message}");
    }
    let on_sqlite = EXISTING.replace("driver: mysql", "driver: sqlite").replace(source, "billing:PW(127.0.0.1:3306)/b");
    let message = format!("{:#}", read(&on_sqlite, &[]).unwrap_err());
    assert!(message.contains("data.database.source") && !message.contains("PW"), "{message}");
}

#[test]
fn the_files_of_the_repository_are_understood() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let nothing = || config::Environment::with_prefix("BILLING").source(Some(Default::default()));
    let production = Loaded::read(&folder.join("config.yaml"), nothing()).unwrap().config;
    assert_eq!(production.environment, Some(Environment::Production));
    assert!(!production.payment_service.unwrap().sandbox);
    let local = Loaded::read(&folder.join("local.yaml"), nothing()).unwrap().config;
    assert!(local.payment_service.unwrap().sandbox);
}

#[test]
fn callbacks_are_signed_where_there_are_secrets_and_confirmed_otherwise() {
    let auth = |more: &str| {
        let config = read(&format!("{EXISTING}  {more}\n"), &[]);
        config.map(|config| config.payment_service.unwrap().callback_auth())
    };
    assert_eq!(auth("").unwrap(), CallbackAuth::Confirm);
    assert_eq!(auth("callback_secrets: []").unwrap(), CallbackAuth::Confirm);
    assert_eq!(auth("callback_secrets: [0123456789abcdef]").unwrap(), CallbackAuth::Signed);
    assert_eq!(auth("callback_auth: none").unwrap(), CallbackAuth::None);
    for bad in [
        "callback_auth: signed",
        "callback_auth: maybe",
        "callback_secrets: ['']",
        "callback_secrets: ['0123456789abcdef', '']",
        "callback_secrets: [a0123456789abcdef, b0123456789abcdef, c0123456789abcdef]",
    ] {
        let message = format!("{:#}", auth(bad).unwrap_err());
        let key = bad.split(':').next().unwrap();
        assert!(
            message.contains(&format!("payment_service.{key}")) || message.contains("callback_secrets"),
            "{message}"
        );
        assert!(!message.contains("0123456789abcdef"), "{message}");
    }
}

#[test]
fn nothing_plays_payment_service_in_production() {
    let production = format!("environment: production\n{EXISTING}  sandbox: true\n");
    let production = production.replace("server:\n", "server:\n  insecure: true\n");
    let message = format!("{:#}", read(&production, &[]).unwrap_err());
    assert!(message.contains("payment_service.sandbox") && message.contains("production"), "{message}");
    assert!(read(&production.replace("production", "staging"), &[]).is_ok());
}

#[test]
fn models_have_a_version_or_a_list_of_them() {
    let yaml = "model_services: {llm: tokens, chat: calls}
  models:
    gpt-4.1: {input: 2, cached_input: 0.5, output: 8}
    Qwen/Qwen2.5:7b:
      - {input: 0.000001, output: 3}
      - {input: 0, output: 4, effective_from: '2026-11-01T00:00:00+08:00'}";
    let config = read(
        &EXISTING.replace("balance_low_threshold: 10.0", yaml),
        &[("BILLING__BILLING__MODELS__ENV__INPUT", "1"), ("BILLING__BILLING__MODELS__ENV__OUTPUT", "2")],
    )
    .unwrap();
    let book = config.price_book();
    let at = |model: &str, time: &str| {
        let found = book.at(&crate::biz::values::ids::ModelName::from_stored(model), time.parse().unwrap());
        found.map(|found| format!("{} {}", found.version.id, found.version.prices))
    };
    assert_eq!(at("gpt-4.1", "1970-01-01T00:00:00Z").unwrap(), "config:2/0.5/8 2/0.5/8");
    assert_eq!(at("env", "2026-01-01T00:00:00Z").unwrap(), "config:1/1/2 1/1/2");
    let (before, after) = ("2026-10-31T15:59:59Z", "2026-10-31T16:00:00Z");
    assert_eq!(at("Qwen/Qwen2.5:7b", before).unwrap(), "config:0.000001/0.000001/3 0.000001/0.000001/3");
    assert_eq!(at("Qwen/Qwen2.5:7b", after).unwrap(), "config:0/0/4@2026-10-31T16:00:00Z 0/0/4");
    assert!(at("qwen/qwen2.5:7b", after).is_err());
    let catalog = config.catalog();
    let price = |service: &str| catalog.find(service).unwrap().1.price;
    let by_model = |unit| Price::Model(unit);
    assert_eq!((price("llm"), price("chat")), (by_model(QuotaUnit::TOKENS), by_model(QuotaUnit::Calls)));
}

/// The paths of all keys of the configuration. The error for an unknown key lists the known ones.
pub(super) fn known_keys() -> BTreeSet<String> {
    let (mut found, mut open) = (BTreeSet::new(), vec![Vec::<String>::new()]);
    while let Some(path) = open.pop() {
        let mut value = serde_json::json!({"no_such_key": 1});
        for part in path.iter().rev() {
            value = serde_json::json!({part: value});
        }
        let refused = serde_path_to_error::deserialize::<_, Config>(value).map(drop).unwrap_err().to_string();
        let Some((_, names)) = refused.split_once("unknown field `no_such_key`, expected ") else { continue };
        for name in names.split('`').skip(1).step_by(2) {
            let path: Vec<String> = path.iter().cloned().chain([name.to_owned()]).collect();
            found.insert(path.join("."));
            open.push(path);
        }
    }
    found
}

/// The paths of all keys in a YAML file, those in comments of the form `# key: value` included.
pub(super) fn written_keys(yaml: &str) -> BTreeSet<String> {
    let (mut found, mut path) = (BTreeSet::new(), Vec::<(usize, String)>::new());
    for line in yaml.lines() {
        let bare = line.trim_start().trim_start_matches("# ");
        let indent = line.find(|letter: char| letter != ' ' && letter != '#').unwrap_or(0);
        // `# key:` of a comment stands where the key itself would stand, two columns on.
        let indent = if line.trim_start().starts_with('#') { indent.saturating_sub(2) } else { indent };
        let Some((key, _)) = bare.split_once(':') else { continue };
        if key.is_empty() || !key.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_') {
            continue;
        }
        path.retain(|(outer, _)| *outer < indent);
        path.push((indent, key.to_owned()));
        found.insert(path.iter().map(|(_, key)| key.as_str()).collect::<Vec<_>>().join("."));
    }
    found
}

#[test]
fn every_config_key_is_in_the_example() {
    let example = include_str!("../../configs/config.yaml");
    let older = ["data.database.former_zone", "billing.settlement.patience"];
    let (known, written) = (known_keys(), written_keys(example));
    assert!(known.len() > 60, "{known:?}");
    let missing: Vec<_> =
        known.iter().filter(|key| !written.contains(*key) && !older.contains(&key.as_str())).collect();
    assert!(missing.is_empty(), "not in configs/config.yaml: {missing:?}");
}
