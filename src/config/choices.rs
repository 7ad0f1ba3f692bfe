//! The config keys whose value is one of a few words.

use serde::{Deserialize, Deserializer, de};
use tracing::Level;

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

/// The commits that a reply which only shows must contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ShowReads {
    /// Every commit that the database has acknowledged.
    #[default]
    Current,
    /// The commits that the database node in use has applied.
    Node,
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

/// Parses one of a few words. The error lists them.
pub(super) fn choice<'de, D: Deserializer<'de>, T: Copy>(
    deserializer: D,
    choices: &[(&str, T)],
) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
        let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
        de::Error::custom(format!("{text:?} is not one of {}", words.join(", ")))
    })
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

pub(super) fn show_reads<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ShowReads, D::Error> {
    choice(deserializer, &[("current", ShowReads::Current), ("node", ShowReads::Node)])
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
