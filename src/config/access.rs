//! `server.grpc.auth`, `server.http.auth` and the keys beside them: the callers of the internal
//! port, and the proof of a front end.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use anyhow::bail;
use config::ValueKind;
use http::{HeaderName, Uri};
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, de};

use super::{
    choices::{self, FrontEndAuth, JwtAlgorithm, Role},
    secret::Secret,
    shown::shown,
    values,
};

/// Most callers in the configuration.
const MAX_CALLERS: usize = 100;
/// Most tokens of one caller: the current one and the next.
const MAX_TOKENS: usize = 2;
/// Most bytes of the name of a caller, which is a label of metrics.
const MAX_NAME: usize = 64;
/// Fewest bytes of a secret for HS256: the length of its hash.
const MIN_HMAC_SECRET: usize = 32;
/// Longest leeway for the clocks of issuers.
const MAX_LEEWAY: Duration = Duration::from_secs(300);

/// Proof of the callers of the internal port.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct GrpcAuth {
    /// Whether `/metrics` needs the role metrics, and reflection and the documents of the port a caller.
    pub protect_operations: bool,
    #[serde(deserialize_with = "callers")]
    pub callers: Vec<CallerConfig>,
}

/// One caller of the internal port. It proves itself by a token or by a client certificate.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CallerConfig {
    pub name: String,
    #[serde(deserialize_with = "choices::several", serialize_with = "shown")]
    pub roles: Vec<Role>,
    /// SHA-256 of the token; two while the token changes.
    #[serde(default, deserialize_with = "hashes", serialize_with = "shown")]
    pub token_sha256: Vec<[u8; 32]>,
    /// Subject alternative names of its certificate. One of them suffices.
    #[serde(default)]
    pub certificate: Vec<String>,
}

/// Proof of the front end's users, on the public port.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpAuth {
    /// `None` means no proof, as the legacy service had none.
    #[serde(deserialize_with = "choices::optional_word", serialize_with = "shown")]
    pub mode: Option<FrontEndAuth>,
    pub jwt: Option<JwtConfig>,
    pub gateway: GatewayConfig,
}

/// The accepted tokens of users.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct JwtConfig {
    pub issuer: String,
    pub audience: String,
    #[serde(deserialize_with = "choices::several", serialize_with = "shown")]
    pub algorithms: Vec<JwtAlgorithm>,
    #[serde(default)]
    pub jwks_file: Option<PathBuf>,
    #[serde(default)]
    pub jwks_url: Option<String>,
    #[serde(default)]
    pub secret: Option<Secret>,
    #[serde(default)]
    secret_file: Option<PathBuf>,
    #[serde(default = "default_user_claim")]
    pub user_claim: String,
    #[serde(default = "default_leeway", deserialize_with = "values::duration", serialize_with = "shown")]
    pub leeway: Duration,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct GatewayConfig {
    /// The header with the account.
    #[serde(deserialize_with = "header_name", serialize_with = "shown")]
    pub identity_header: HeaderName,
}

/// Pages of other origins.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cors {
    #[serde(deserialize_with = "origins")]
    pub origins: Vec<String>,
}

impl GrpcAuth {
    /// Checks the rules that involve several callers.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        const KEY: &str = "config key server.grpc.auth.callers";
        if self.callers.len() > MAX_CALLERS {
            bail!("{KEY}: must be {MAX_CALLERS} at most");
        }
        let (mut names, mut hashes, mut certificates) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for CallerConfig { name, roles, token_sha256, certificate } in &self.callers {
            let is_name = (1..=MAX_NAME).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
            if !is_name {
                bail!("{KEY}: the name {name:?} must be 1 to {MAX_NAME} letters, digits, dots, dashes or underscores");
            }
            if !names.insert(name) {
                bail!("{KEY}: {name} is there twice");
            }
            if roles.is_empty() {
                bail!("{KEY}: {name} has no role");
            }
            if token_sha256.is_empty() && certificate.is_empty() {
                bail!("{KEY}: {name} needs token_sha256 or certificate");
            }
            if token_sha256.len() > MAX_TOKENS {
                bail!("{KEY}: {name} has more than {MAX_TOKENS} tokens");
            }
            if !token_sha256.iter().all(|hash| hashes.insert(hash)) {
                bail!("{KEY}: {name} has the token of another caller, or one token twice");
            }
            if !certificate.iter().all(|subject| !subject.is_empty() && certificates.insert(subject)) {
                bail!("{KEY}: {name} has the certificate of another caller, one name twice, or an empty name");
            }
        }
        Ok(())
    }
}

impl HttpAuth {
    /// The mode in force.
    pub fn mode(&self) -> FrontEndAuth {
        self.mode.unwrap_or(FrontEndAuth::None)
    }

    /// Checks the rules that involve several keys.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        match (self.mode(), &self.jwt) {
            (FrontEndAuth::Jwt, None) => bail!("config key server.http.auth.jwt: mode jwt needs it"),
            (_, Some(jwt)) => jwt.check(),
            _ => Ok(()),
        }
    }
}

impl JwtConfig {
    fn check(&self) -> anyhow::Result<()> {
        const KEY: &str = "config key server.http.auth.jwt";
        for (key, value) in [("issuer", &self.issuer), ("audience", &self.audience), ("user_claim", &self.user_claim)] {
            if value.is_empty() {
                bail!("{KEY}.{key}: must not be empty");
            }
        }
        if self.leeway > MAX_LEEWAY {
            bail!("{KEY}.leeway: must be at most 5m");
        }
        if self.algorithms.is_empty() {
            bail!("{KEY}.algorithms: must name at least one of RS256, ES256, EdDSA, HS256");
        }
        let has_hmac = self.algorithms.contains(&JwtAlgorithm::Hs256);
        match &self.secret {
            Some(_) if !has_hmac => {
                bail!("{KEY}.secret: only HS256 uses a secret; add HS256 to {KEY}.algorithms, or remove the secret")
            }
            None if has_hmac => bail!("{KEY}.secret: is required for HS256"),
            Some(secret) if secret.reveal().len() < MIN_HMAC_SECRET => {
                bail!("{KEY}.secret: must have at least {MIN_HMAC_SECRET} characters")
            }
            _ => {}
        }
        let has_signature = self.algorithms.iter().any(|algorithm| *algorithm != JwtAlgorithm::Hs256);
        match (&self.jwks_file, &self.jwks_url) {
            (Some(_), Some(_)) => bail!("{KEY}.jwks_url: jwks_file is set too; set one of them"),
            (None, None) if has_signature => {
                bail!("{KEY}.jwks_url: is required for RS256, ES256 and EdDSA, unless jwks_file is set")
            }
            (Some(_), _) | (_, Some(_)) if !has_signature => {
                bail!("{KEY}.jwks_url: HS256 uses no public keys; remove jwks_url and jwks_file")
            }
            (None, Some(url)) => check_url(url),
            _ => Ok(()),
        }
    }
}

/// Keys that anyone on the way could replace would prove nothing.
fn check_url(url: &str) -> anyhow::Result<()> {
    const KEY: &str = "config key server.http.auth.jwt.jwks_url";
    let Ok(parsed) = url.parse::<Uri>() else { bail!("{KEY}: must be a URL") };
    let host = parsed.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_local = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    match parsed.scheme_str() {
        Some("https") if !host.is_empty() => Ok(()),
        Some("http") if is_local => Ok(()),
        _ => bail!("{KEY}: must be an https:// URL"),
    }
}

/// A list of callers, or its JSON, the form in the environment.
fn callers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<CallerConfig>, D::Error> {
    let value = config::Value::deserialize(deserializer)?;
    match value.kind {
        ValueKind::String(json) => serde_json::from_str(&json).map_err(de::Error::custom),
        _ => value.try_deserialize().map_err(de::Error::custom),
    }
}

/// Hashes in hexadecimal. Errors do not show the text, which may be a token by mistake.
fn hashes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<[u8; 32]>, D::Error> {
    let texts = values::texts(deserializer)?;
    let parse = |text: &String| {
        hash(text).ok_or_else(|| {
            de::Error::custom("each must be 64 hexadecimal digits, the SHA-256 of a token: printf %s TOKEN | sha256sum")
        })
    };
    texts.iter().map(parse).collect()
}

fn hash(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if text.len() != 2 * hash.len() || !text.is_ascii() {
        return None;
    }
    for (index, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(hash)
}

fn header_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<HeaderName, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| de::Error::custom(format!("{text:?} is not a name of a header such as x-user-id")))
}

/// Origins as browsers send them: scheme, host, and the port if it is not that of the scheme.
fn origins<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let origins = values::texts(deserializer)?;
    match origins.iter().find(|origin| !is_origin(origin)) {
        Some(wrong) => Err(de::Error::custom(format!(
            "{wrong:?} is not an origin such as https://app.example.com: scheme and host in lower case, no path, no *"
        ))),
        None => Ok(origins),
    }
}

pub(super) fn is_origin(origin: &str) -> bool {
    let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    host.is_some_and(|host| {
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
        !host.is_empty() && host.bytes().all(is_host) && host.to_ascii_lowercase() == host
    })
}

/// Host names, without ports, in lower case.
pub(super) fn hosts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let hosts = values::texts(deserializer)?;
    let is_host = |host: &&String| {
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte))
    };
    match hosts.iter().find(|host| !is_host(host)) {
        Some(wrong) => Err(de::Error::custom(format!("{wrong:?} is not a host such as billing.example.com"))),
        None => Ok(hosts.iter().map(|host| host.to_ascii_lowercase()).collect()),
    }
}

/// Addresses and networks: `10.0.0.7`, `10.0.0.0/8`, `fd00::/8`.
pub(super) fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let texts = values::texts(deserializer)?;
    let parse = |text: &String| {
        let network = text.parse().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from));
        network.ok_or_else(|| de::Error::custom(format!("{text:?} is not an address or a network such as 10.0.0.0/8")))
    };
    texts.iter().map(parse).collect()
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self { identity_header: HeaderName::from_static("x-user-id") }
    }
}

fn default_user_claim() -> String {
    "sub".into()
}

fn default_leeway() -> Duration {
    Duration::from_secs(60)
}
