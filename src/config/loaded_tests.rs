//! Secrets from files, and the printed configuration.

use std::{
    collections::BTreeSet,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
};

use super::{
    secret_files,
    tests::{EXISTING, known_keys, load, written_keys},
};

/// Every section and every kind of value.
const FULL: &str = "
environment: staging
server:
  trusted_proxies: [10.0.0.0/8, 'fd00::/8']
  tls: {cert_file: server.pem, key_file: server.key, client_ca_file: clients.pem}
  http:
    hosts: [billing.example.com]
    cors: {origins: ['https://app.example.com']}
    auth:
      mode: jwt
      jwt:
        issuer: https://login.example.com
        audience: 'yes'
        algorithms: [HS256, EdDSA]
        jwks_file: /etc/billing/jwks.json
        secret: SECRET-of-32-characters-or-more-0
        leeway: 0.0005s
  grpc:
    internal_tokens: [SECRET-of-an-admin]
    auth:
      callers:
        - {name: '007', roles: [gateway, keys], token_sha256: [00000000000000000000000000000000000000000000000000000000000000ff]}
        - {name: payments, roles: [payment], certificate: [payment.internal]}
console:
  enabled: true
  key: SECRET-of-32-characters-or-more-1
  idle_timeout: 5m
data:
  database:
    driver: mysql
    source: root:SECRET@tcp(127.0.0.1:3306)/billing_service?charset=utf8mb4&loc=Local
    hosts: [db1:3307, '[::1]:3306']
    legacy_zone: Europe/Berlin
  redis: {addr: 'redis-1:6379', username: billing, password: SECRET, db: 3}
billing:
  prices: {passport: 0.01, payment: 0.100001, asset: 999999999.999999}
  model_services: {llm: tokens}
  quota_weights: {llm: {cached_input: 0.1, output: 4, image: 100}}
  models:
    m: {input: 3, cached_input: 0.5, output: 12}
    full: {input: 3, cached_input: 0.5, cache_write: 4, output: 12, image: 0.1, tiers: [{above_input_tokens: 9, input: 6}], service_tiers: {batch: 0.5}, aliases: ['full-*'], max_tokens: 99}
    gpt-4.1:
      - {input: 3, cached_input: 1, output: 12}
      - {input: 2.5, cached_input: 1, output: 10, effective_from: '2026-12-01T00:00:00+08:00'}
  free_quotas: {passport: 100000000000000}
  plans:
    reseller: {multiplier: 1.2, prices: {passport: 0.02}, free_quotas: {passport: 7}, models: {own: {input: 1, cached_input: 1, output: 1}}}
  usage_sanity: 7
  balance_low_threshold: 10.0
  quota_low_percent_threshold: 2.29
  reservations: {llm: {on_expiry: release, above_hold: spill}}
  rate_limits: {user: {second: 5}}
  record_months: 13
  webhooks:
    key: SECRETofWebhooksSECRETofWebhooksSECRETofWeA=
    old_keys: [SECRETofOldKeysSECRETofOldKeysSECRETofOldKA=]
    allow_private: true
payment_service:
  grpc_addr: 127.0.0.1:9101
  timeout: 90s
  return_url: 'http://localhost/return # here'
  callback_secrets: [SECRET-of-callbacks-1]
cron: {metrics: {addr: ':9207'}}
log: {level: debug, format: json}
";

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path: PathBuf = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path.display().to_string()
    }
}

/// [`FULL`] without the secret of `key`.
fn without(key: &str) -> String {
    let name = key.rsplit('.').next().unwrap();
    let mut yaml = String::new();
    for line in FULL.lines() {
        match line {
            line if line.trim_start().starts_with("redis:") => yaml += &line.replace(", password: SECRET", ""),
            line if line.trim_start().starts_with(&format!("{name}: ")) && line.contains("SECRET") => {}
            line => yaml += line,
        }
        yaml += "\n";
    }
    yaml
}

/// The path of a key as the name of its variable.
fn variable(key: &str) -> String {
    format!("BILLING__{}", key.to_uppercase().replace('.', "__"))
}

#[test]
fn every_secret_can_come_from_a_file() {
    let folder = Folder::new();
    for (key, content) in [
        ("data.database.source", "root:FROMFILE@tcp(db:3306)/b\n"),
        ("data.redis.password", " FROMFILE with spaces \r\n"),
        ("payment_service.callback_secrets", "FROMFILE-callbacks-1\nFROMFILE-callbacks-2\n"),
        ("server.grpc.internal_tokens", "FROMFILE, with a comma\r\nFROMFILE-the-second\r\n"),
        ("billing.webhooks.key", "FROMFILEofWebhooksFROMFILEofWebhooksFROMFIA=\n"),
        (
            "billing.webhooks.old_keys",
            "FROMFILEofOldKeysFROMFILEofOldKeysFROMFILEA=\nFROMFILEofOlderKeysFROMFILEofOlderKeysFROMA=\n",
        ),
        ("server.http.auth.jwt.secret", "FROMFILE-of-32-characters-or-more-"),
    ] {
        let (file, yaml) = (folder.file("secret", content), without(key));
        let loaded = load(&yaml, &[(&variable(&format!("{key}_file")), &file)]).unwrap();
        let config = &loaded.config;
        let (redis, payment) = (config.data.redis.as_ref().unwrap(), config.payment_service.as_ref().unwrap());
        let jwt = config.server.http.auth.jwt.as_ref().unwrap();
        let tokens = |list: &[super::Secret]| list.iter().map(|one| one.reveal().to_owned()).collect::<Vec<_>>();
        let got = match key {
            "data.database.source" => vec![config.data.database.source.reveal().to_owned()],
            "data.redis.password" => tokens(redis.password.as_slice()),
            "payment_service.callback_secrets" => tokens(&payment.callback_secrets),
            "billing.webhooks.key" => tokens(config.billing.webhooks.key.as_slice()),
            "billing.webhooks.old_keys" => tokens(&config.billing.webhooks.old_keys),
            "server.grpc.internal_tokens" => tokens(&config.server.grpc.internal_tokens),
            _ => tokens(jwt.secret.as_slice()),
        };
        let want: Vec<&str> =
            content.trim_end_matches(['\r', '\n']).split('\n').map(|line| line.trim_end_matches('\r')).collect();
        assert_eq!(got, want, "{key}");
        assert_eq!(loaded.warnings, [""; 0], "{key}");
        let shown = loaded.to_yaml().unwrap();
        assert!(!shown.contains("FROMFILE"), "{shown}");
        assert!(
            shown.contains(&format!("# {key}_file")) && shown.contains(&variable(&format!("{key}_file"))),
            "{shown}"
        );
    }
}

#[test]
fn a_bad_file_of_a_secret_is_an_error_that_names_the_key_and_not_the_content() {
    let folder = Folder::new();
    let (empty, newline) = (folder.file("empty", ""), folder.file("newline", "\n"));
    let (long, binary) = (folder.file("long", "PW".repeat(40_000)), folder.file("binary", b"PW\xff"));
    let missing = folder.0.path().join("missing").display().to_string();
    let directory = folder.0.path().display().to_string();
    for key in secret_files::keys() {
        let file_key = format!("{key}_file");
        for file in [&empty, &newline, &long, &binary, &missing, &directory] {
            let refused = format!("{:#}", load(&without(key), &[(&variable(&file_key), file)]).err().unwrap());
            assert!(refused.contains(&file_key) && refused.contains(file.as_str()), "{refused}");
            assert!(!refused.contains("PW"), "{refused}");
        }
        let good = folder.file("good", "PW-of-32-characters-or-more-01234");
        let both = format!("{:#}", load(FULL, &[(&variable(&file_key), &good)]).err().unwrap());
        assert!(both.contains(&file_key) && !both.contains("PW"), "{both}");
    }
    let exact = folder.file("exact", format!("{}\n", "p".repeat(64 * 1024 - 1)));
    load(&without("data.redis.password"), &[("BILLING__DATA__REDIS__PASSWORD_FILE", &exact)]).unwrap();
    for (key, content) in [
        ("data.database.source", "PW"),
        ("payment_service.callback_secrets", "PW"),
        ("server.grpc.internal_tokens", "PW-of-the-first-one\n\nPW-of-the-second-one"),
    ] {
        let (file, file_key) = (folder.file("bad", content), format!("{key}_file"));
        let refused = format!("{:#}", load(&without(key), &[(&variable(&file_key), &file)]).err().unwrap());
        assert!(refused.contains(&file_key) && !refused.contains("PW"), "{refused}");
    }
}

#[test]
fn a_file_that_others_can_read_gets_a_warning() {
    let folder = Folder::new();
    let file = folder.file("password", "PW\n");
    for (mode, warns) in [(0o600, false), (0o400, false), (0o700, false), (0o640, true), (0o604, true), (0o644, true)] {
        fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        let loaded = load(&without("data.redis.password"), &[("BILLING__DATA__REDIS__PASSWORD_FILE", &file)]).unwrap();
        assert_eq!(loaded.warnings.len(), usize::from(warns), "{mode:o} {:?}", loaded.warnings);
        let named = |warning: &String| warning.contains("data.redis.password_file") && !warning.contains("PW");
        assert!(loaded.warnings.iter().all(named), "{:?}", loaded.warnings);
    }
}

#[test]
fn every_key_is_printed() {
    let printed = written_keys(&load(FULL, &[]).unwrap().to_yaml().unwrap());
    let older = ["data.database.former_zone", "billing.settlement.patience"];
    let missing: Vec<_> =
        known_keys().into_iter().filter(|key| !printed.contains(key) && !older.contains(&key.as_str())).collect();
    assert!(missing.is_empty(), "not printed: {missing:?}");
}

#[test]
fn secrets_are_printed_as_stars_and_each_of_them_has_a_file() {
    let printed = load(FULL, &[]).unwrap().to_yaml().unwrap();
    assert!(!printed.contains("SECRET"), "{printed}");
    assert!(printed.contains("source: \"root:***@tcp(127.0.0.1:3306)/billing_service?charset=utf8mb4&loc=Local\""));
    // The list of one secret is a line below its key.
    let starred: Vec<&str> = printed.split("***").collect();
    let keys = starred.iter().take(starred.len() - 1).map(|before| {
        let key = before.lines().rev().find_map(|line| line.trim().split_once(':')).unwrap().0;
        key.trim_start_matches("- ").to_owned()
    });
    let names = secret_files::keys().map(|key| key.rsplit('.').next().unwrap().to_owned());
    assert_eq!(keys.collect::<BTreeSet<_>>(), names.collect(), "{printed}");
    let files: BTreeSet<String> =
        known_keys().into_iter().filter_map(|key| key.strip_suffix("_file").map(str::to_owned)).collect();
    let known = known_keys();
    let of_secrets: BTreeSet<_> = files.into_iter().filter(|key| known.contains(key)).collect();
    assert_eq!(of_secrets, secret_files::keys().map(str::to_owned).collect());
}

#[test]
fn the_printed_configuration_is_the_configuration() {
    let first = load(FULL, &[("BILLING__BILLING__CURRENCY", "JPY")]).unwrap();
    let printed = first.to_yaml().unwrap();
    // A key that is absent prints as null.
    let present: String =
        printed.lines().filter(|line| !line.contains(": null")).flat_map(|line| [line, "\n"]).collect();
    let again = present
        .replace("internal_tokens:\n      - \"***\"", "internal_tokens: [SECRET-of-an-admin]")
        .replace("callback_secrets:\n    - \"***\"", "callback_secrets: [SECRET-of-callbacks-1]")
        .replace("old_keys:\n      - \"***\"", "old_keys: [SECRETofOldKeysSECRETofOldKeysSECRETofOldKA=]")
        .replace("secret: \"***\"", "secret: SECRET-of-32-characters-or-more-0")
        .replace("\n    key: \"***\"", "\n    key: SECRETofWebhooksSECRETofWebhooksSECRETofWeA=")
        .replace("\n  key: \"***\"", "\n  key: SECRET-of-32-characters-or-more-1");
    let second = load(&again, &[]).unwrap_or_else(|error| panic!("{error:#}\n{again}"));
    let debug = |loaded: &super::Loaded| format!("{:#?}", loaded.config);
    assert_eq!(debug(&first), debug(&second), "{printed}");
}

#[test]
fn each_value_has_its_origin() {
    let yaml = EXISTING
        .replace("    driver: mysql", "    driver: mysql\n    former_zone: Europe/Berlin")
        .replace("  prices:", "  models: {m: {input: 1, output: 2}}\n  prices:");
    let environment = [
        ("BILLING__SERVER__HTTP__TIMEOUT", "3s"),
        ("BILLING__SERVER__GRPC__INTERNAL_TOKENS", "0123456789abcdef, fedcba9876543210"),
        (
            "BILLING__SERVER__GRPC__AUTH__CALLERS",
            "[{\"name\": \"edge\", \"roles\": [\"gateway\"], \"certificate\": [\"a\"]}]",
        ),
        ("BILLING__SERVER__TLS__CERT_FILE", "server.pem"),
        ("BILLING__SERVER__TLS__KEY_FILE", "server.key"),
        ("BILLING__SERVER__TLS__CLIENT_CA_FILE", "clients.pem"),
        ("BILLING__BILLING__PRICES__PASSPORT", "0.02"),
    ];
    let printed = load(&yaml, &environment).unwrap().to_yaml().unwrap();
    for line in [
        "    timeout: 3s  # BILLING__SERVER__HTTP__TIMEOUT",
        "    timeout: 1s  # file",
        "    style: plain  # default",
        "      - \"***\"  # BILLING__SERVER__GRPC__INTERNAL_TOKENS",
        "        - certificate:",
        "            - a  # BILLING__SERVER__GRPC__AUTH__CALLERS",
        "          name: edge  # BILLING__SERVER__GRPC__AUTH__CALLERS",
        "    legacy_zone: Europe/Berlin  # file",
        "    passport: 0.02  # BILLING__BILLING__PRICES__PASSPORT",
        "    payment: 0.1  # file",
        "      - cached_input: null  # default",
        "        input: 1  # file",
        "  callback_auth: confirm  # default",
        "      mode: none  # default",
        "environment: null  # default",
    ] {
        assert!(printed.lines().any(|printed| printed == line), "{line}\n{printed}");
    }
}
