//! The config keys whose value is one of a few words.

use serde::{Deserialize, Deserializer, de};
use tracing::Level;

use super::values::texts;

/// The environment of the deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    Development,
    Staging,
    Production,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    Mysql,
    Sqlite,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// The topology of Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RedisMode {
    #[default]
    Single,
    Sentinel,
    Cluster,
}

/// The style of REST replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Style {
    /// The message itself, with snake_case names.
    #[default]
    Plain,
    /// lowerCamelCase names inside `{"success":true,"data":...}`.
    Devshare,
}

/// The treatment of members and query parameters that a message does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnknownFields {
    Ignore,
    /// Counts and logs.
    #[default]
    Warn,
    /// Refuses the request.
    Reject,
}

/// The proof that a callback comes from payment-service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallbackAuth {
    /// A signature under one of the secrets.
    Signed,
    /// None. A callback is a hint, and payment-service is asked.
    Confirm,
    /// None, and every callback counts. For tests and closed networks.
    None,
}

/// A right to call some rpcs. `server::access::table` says which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Gateway,
    Payment,
    Keys,
    Support,
    Admin,
    Metrics,
}

impl Role {
    pub const ALL: [Self; 6] = [Self::Gateway, Self::Payment, Self::Keys, Self::Support, Self::Admin, Self::Metrics];

    pub fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Payment => "payment",
            Self::Keys => "keys",
            Self::Support => "support",
            Self::Admin => "admin",
            Self::Metrics => "metrics",
        }
    }
}

/// The proof of the front end's users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrontEndAuth {
    /// A signed token of the user.
    Jwt,
    /// A header of a trusted gateway.
    Gateway,
    /// None. Anyone reads any account.
    None,
}

/// The signatures of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JwtAlgorithm {
    Rs256,
    Es256,
    EdDsa,
    Hs256,
}

/// Parses one of a few words. The error lists them.
pub(super) fn choice<'de, D: Deserializer<'de>, T: Copy>(
    deserializer: D,
    choices: &[(&str, T)],
) -> Result<T, D::Error> {
    find(&String::deserialize(deserializer)?, choices)
}

fn find<T: Copy, E: de::Error>(text: &str, choices: &[(&str, T)]) -> Result<T, E> {
    choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
        let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
        E::custom(format!("{text:?} is not one of {}", words.join(", ")))
    })
}

/// Parses a list of words, or one text with commas, the form in the environment.
fn several<'de, D: Deserializer<'de>, T: Copy>(deserializer: D, choices: &[(&str, T)]) -> Result<Vec<T>, D::Error> {
    texts(deserializer)?.iter().map(|word| find(word, choices)).collect()
}

pub(super) fn redis_mode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RedisMode, D::Error> {
    match String::deserialize(deserializer)?.as_str() {
        "single" => Ok(RedisMode::Single),
        "sentinel" => Ok(RedisMode::Sentinel),
        "cluster" => Ok(RedisMode::Cluster),
        other => Err(de::Error::custom(format!("{other:?} is none of single, sentinel, cluster"))),
    }
}

pub(super) fn driver<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Driver, D::Error> {
    choice(deserializer, &[("mysql", Driver::Mysql), ("sqlite", Driver::Sqlite)])
}

pub(super) fn environment<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Environment>, D::Error> {
    let environments = [
        ("development", Environment::Development),
        ("staging", Environment::Staging),
        ("production", Environment::Production),
    ];
    choice(deserializer, &environments).map(Some)
}

pub(super) fn callback_auth<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<CallbackAuth>, D::Error> {
    let ways = [("signed", CallbackAuth::Signed), ("confirm", CallbackAuth::Confirm), ("none", CallbackAuth::None)];
    choice(deserializer, &ways).map(Some)
}

pub(super) fn style<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Style, D::Error> {
    choice(deserializer, &[("plain", Style::Plain), ("devshare", Style::Devshare)])
}

pub(super) fn unknown_fields<'de, D: Deserializer<'de>>(deserializer: D) -> Result<UnknownFields, D::Error> {
    let choices = [("ignore", UnknownFields::Ignore), ("warn", UnknownFields::Warn), ("reject", UnknownFields::Reject)];
    choice(deserializer, &choices)
}

pub(super) fn log_format<'de, D: Deserializer<'de>>(deserializer: D) -> Result<LogFormat, D::Error> {
    choice(deserializer, &[("text", LogFormat::Text), ("json", LogFormat::Json)])
}

pub(super) fn log_level<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Level, D::Error> {
    let levels = [
        ("error", Level::ERROR),
        ("warn", Level::WARN),
        ("info", Level::INFO),
        ("debug", Level::DEBUG),
        ("trace", Level::TRACE),
    ];
    choice(deserializer, &levels)
}

pub(super) fn front_end_auth<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<FrontEndAuth>, D::Error> {
    let modes = [("jwt", FrontEndAuth::Jwt), ("gateway", FrontEndAuth::Gateway), ("none", FrontEndAuth::None)];
    choice(deserializer, &modes).map(Some)
}

pub(super) fn roles<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Role>, D::Error> {
    several(deserializer, &Role::ALL.map(|role| (role.name(), role)))
}

pub(super) fn jwt_algorithms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<JwtAlgorithm>, D::Error> {
    let algorithms = [
        ("RS256", JwtAlgorithm::Rs256),
        ("ES256", JwtAlgorithm::Es256),
        ("EdDSA", JwtAlgorithm::EdDsa),
        ("HS256", JwtAlgorithm::Hs256),
    ];
    several(deserializer, &algorithms)
}
