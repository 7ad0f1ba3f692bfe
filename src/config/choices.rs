//! The config keys whose value is one of a few words.

use serde::{Deserialize, Deserializer, de};
use tracing::Level;

use super::values::texts;
use crate::biz::account::{
    catalog::QuotaUnit,
    policy::{AboveHold, OnExpiry},
};

/// The environment of the deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    Development,
    Staging,
    Production,
}

impl Environment {
    pub fn name(self) -> &'static str {
        match self {
            Self::Development => "development",
            Self::Staging => "staging",
            Self::Production => "production",
        }
    }
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

/// The requests that get a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestLines {
    All,
    /// Those that were not answered with success.
    Errors,
    /// Those that took longer than `log.slow_request`.
    Slow,
    None,
}

/// How often the whole audit runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WholeAudits {
    Daily,
    #[default]
    Weekly,
    Monthly,
    /// Only by hand.
    Never,
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

/// A value that is one of a few words.
pub(super) trait Word: Copy + PartialEq + 'static {
    /// Every value with its word.
    const WORDS: &[(&str, Self)];
}

/// The words of a type, each beside its value.
macro_rules! words {
    ($type:ty: $($word:literal = $value:expr),+) => {
        impl Word for $type {
            const WORDS: &[(&str, Self)] = &[$(($word, $value)),+];
        }
    };
}

words!(Environment: "development" = Self::Development, "staging" = Self::Staging, "production" = Self::Production);
words!(Driver: "mysql" = Self::Mysql, "sqlite" = Self::Sqlite);
words!(ShowReads: "current" = Self::Current, "node" = Self::Node);
words!(LogFormat: "text" = Self::Text, "json" = Self::Json);
words!(RequestLines: "all" = Self::All, "errors" = Self::Errors, "slow" = Self::Slow, "none" = Self::None);
words!(WholeAudits: "daily" = Self::Daily, "weekly" = Self::Weekly, "monthly" = Self::Monthly, "never" = Self::Never);
words!(RedisMode: "single" = Self::Single, "sentinel" = Self::Sentinel, "cluster" = Self::Cluster);
words!(Style: "plain" = Self::Plain, "devshare" = Self::Devshare);
words!(UnknownFields: "ignore" = Self::Ignore, "warn" = Self::Warn, "reject" = Self::Reject);
words!(CallbackAuth: "signed" = Self::Signed, "confirm" = Self::Confirm, "none" = Self::None);
words!(Role: "gateway" = Self::Gateway, "payment" = Self::Payment, "keys" = Self::Keys, "support" = Self::Support,
    "admin" = Self::Admin, "metrics" = Self::Metrics);
words!(FrontEndAuth: "jwt" = Self::Jwt, "gateway" = Self::Gateway, "none" = Self::None);
words!(JwtAlgorithm: "RS256" = Self::Rs256, "ES256" = Self::Es256, "EdDSA" = Self::EdDsa, "HS256" = Self::Hs256);
words!(OnExpiry: "commit" = Self::Commit, "release" = Self::Release);
words!(AboveHold: "charge" = Self::Charge, "cap" = Self::Cap, "spill" = Self::Spill);
words!(QuotaUnit: "calls" = Self::Calls, "tokens" = Self::TOKENS);
words!(Level: "error" = Self::ERROR, "warn" = Self::WARN, "info" = Self::INFO, "debug" = Self::DEBUG,
    "trace" = Self::TRACE);

/// Parses one of a few words. The error lists them.
pub(super) fn word<'de, D: Deserializer<'de>, T: Word>(deserializer: D) -> Result<T, D::Error> {
    find(&String::deserialize(deserializer)?)
}

/// As [`word`], for an optional key.
pub(super) fn optional_word<'de, D: Deserializer<'de>, T: Word>(deserializer: D) -> Result<Option<T>, D::Error> {
    word(deserializer).map(Some)
}

/// Parses a list of words, or one text with commas, the form in the environment.
pub(super) fn several<'de, D: Deserializer<'de>, T: Word>(deserializer: D) -> Result<Vec<T>, D::Error> {
    texts(deserializer)?.iter().map(|word| find(word)).collect()
}

fn find<T: Word, E: de::Error>(text: &str) -> Result<T, E> {
    T::WORDS.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
        let words: Vec<_> = T::WORDS.iter().map(|(word, _)| *word).collect();
        E::custom(format!("{text:?} is not one of {}", words.join(", ")))
    })
}
