//! A committed change of an account or an API key, as settlement hands it to those that keep a
//! copy of the state.

use std::{collections::BTreeMap, fmt};

use crate::biz::{
    account::{Balance, Quota},
    limits::{
        caps::Requests,
        key_quota::{KeyQuotas, QuotaType},
    },
    values::{
        cache_key::CacheKey,
        calendar::Month,
        ids::{ApiKeyId, ServiceName, UserId},
    },
};

/// Which of two states is the newer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Version {
    /// Grows with every change of the account.
    Account(i64),
    /// Tells two states of a key apart, and not which came first: rows come and go.
    ApiKey(String),
}

impl Version {
    pub fn of_key(quotas: &KeyQuotas) -> Self {
        let rows = quotas
            .iter()
            .map(|((_, kind), quota)| format!("{kind}:{}:{}", quota.since.timestamp_micros(), quota.version));
        let rows: Vec<String> = rows.collect();
        Self::ApiKey(if rows.is_empty() { "none".into() } else { rows.join(",") })
    }

    /// Whether a state of this version is certainly not older than one of the other.
    pub fn is_at_least(&self, other: &Version) -> bool {
        match (self, other) {
            (Self::Account(own), Self::Account(other)) => own >= other,
            _ => self == other,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Account(number) => number.fmt(f),
            Self::ApiKey(rows) => rows.fmt(f),
        }
    }
}

/// What a committed settlement changed. It makes a new entry of the one it began with,
/// and of no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Account(AccountChange),
    ApiKey(KeyChange),
}

/// As it is now; what is not named stayed as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountChange {
    pub user: UserId,
    /// The version of the account before.
    pub before: i64,
    pub balance: Balance,
    pub requests: Option<Requests>,
    pub quotas: BTreeMap<(Month, ServiceName), Quota>,
}

/// As it is now, all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyChange {
    pub key: ApiKeyId,
    pub before: Version,
    pub quotas: KeyQuotas,
}

impl KeyChange {
    /// Of a key whose quotas were `before`.
    pub fn new(key: &ApiKeyId, before: &KeyQuotas, quotas: KeyQuotas) -> Self {
        Self { key: key.clone(), before: Version::of_key(before), quotas }
    }
}

/// The quotas of one key among those of many.
pub fn of_key(quotas: &KeyQuotas, key: &ApiKeyId) -> KeyQuotas {
    let kinds = QuotaType::ALL.into_iter().map(|kind| (key.clone(), kind));
    kinds.filter_map(|row| quotas.get(&row).map(|quota| (row, *quota))).collect()
}

impl Change {
    pub fn cache_key(&self) -> CacheKey {
        match self {
            Self::Account(change) => CacheKey::User(change.user.clone()),
            Self::ApiKey(change) => CacheKey::ApiKey(change.key.clone()),
        }
    }

    pub fn before(&self) -> Version {
        match self {
            Self::Account(change) => Version::Account(change.before),
            Self::ApiKey(change) => change.before.clone(),
        }
    }

    pub fn after(&self) -> Version {
        match self {
            Self::Account(change) => Version::Account(change.balance.version),
            Self::ApiKey(change) => Version::of_key(&change.quotas),
        }
    }

    /// This change and the one that followed it, as one; `None` when others came between.
    pub fn then(&self, later: &Change) -> Option<Change> {
        if later.before() != self.after() {
            return None;
        }
        match (self, later) {
            (Self::Account(first), Self::Account(second)) => {
                let mut quotas = first.quotas.clone();
                quotas.extend(second.quotas.iter().map(|(key, quota)| (key.clone(), *quota)));
                let requests = second.requests.or(first.requests);
                Some(Self::Account(AccountChange { before: first.before, requests, quotas, ..second.clone() }))
            }
            (Self::ApiKey(first), Self::ApiKey(second)) => {
                Some(Self::ApiKey(KeyChange { before: first.before.clone(), ..second.clone() }))
            }
            _ => None,
        }
    }
}
