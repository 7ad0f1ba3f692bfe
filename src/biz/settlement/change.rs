//! A committed change of an account or an API key. Settlement sends it to the caches.

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

/// The version of a state, to compare two states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Version {
    /// A number that grows with every change of the account.
    Account(i64),
    /// A text that differs between two states of an API key. It has no order, because rows of
    /// quotas are added and removed.
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

    /// Whether this version is known to be equal to or newer than the other.
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

/// The effect of a committed settlement on one entry. It applies only to the entry with the
/// version that the settlement started from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Account(AccountChange),
    ApiKey(KeyChange),
}

/// The state after the settlement. Absent quotas and requests are unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountChange {
    pub user: UserId,
    /// The version of the account before the change.
    pub before: i64,
    pub balance: Balance,
    pub requests: Option<Requests>,
    pub quotas: BTreeMap<(Month, ServiceName), Quota>,
}

/// All quotas of the API key after the settlement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyChange {
    pub key: ApiKeyId,
    pub before: Version,
    pub quotas: KeyQuotas,
}

impl KeyChange {
    /// The change of an API key from the quotas `before` to `quotas`.
    pub fn new(key: &ApiKeyId, before: &KeyQuotas, quotas: KeyQuotas) -> Self {
        Self { key: key.clone(), before: Version::of_key(before), quotas }
    }
}

/// The quotas of one API key out of those of several.
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

    /// Merges this change with the next one; `None` if a change in between is missing.
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
