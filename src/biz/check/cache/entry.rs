//! What is cached: an account with its caps, and the quotas of an API key; and how a
//! committed change makes the next entry of one.

use std::{collections::BTreeMap, fmt};

use crate::biz::{
    account::{Account, Balance, Quota},
    limits::{
        caps::Requests,
        key_quota::{KeyQuotas, QuotaType},
    },
    values::{
        calendar::Month,
        ids::{ApiKeyId, ServiceName, UserId},
    },
};

/// Whom an entry is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CacheKey {
    User(UserId),
    ApiKey(ApiKeyId),
}

/// A committed state, as the database had it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheEntry {
    Account(UserId, AccountEntry),
    /// Of a key without quotas too, so that nobody has to ask again.
    ApiKey(ApiKeyId, KeyQuotas),
}

/// An account. Quotas of other months may be there, and are as true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountEntry {
    pub balance: Balance,
    pub requests: Option<Requests>,
    pub quotas: BTreeMap<(Month, ServiceName), Quota>,
}

impl AccountEntry {
    pub fn new(account: Account, month: Month) -> Self {
        let quotas = account.quotas.into_iter().map(|(service, quota)| ((month, service), quota)).collect();
        Self { balance: account.balance, requests: account.requests, quotas }
    }

    /// `None` where it is not known, as before the month was opened.
    pub fn quota(&self, month: Month, service: &ServiceName) -> Option<Quota> {
        self.quotas.get(&(month, service.clone())).copied()
    }
}

impl CacheEntry {
    pub fn cache_key(&self) -> CacheKey {
        match self {
            Self::Account(user, _) => CacheKey::User(user.clone()),
            Self::ApiKey(key, _) => CacheKey::ApiKey(key.clone()),
        }
    }

    pub fn version(&self) -> Version {
        match self {
            Self::Account(_, account) => Version::Account(account.balance.version),
            Self::ApiKey(_, quotas) => Version::of_key(quotas),
        }
    }

    pub fn account(&self) -> Option<&AccountEntry> {
        match self {
            Self::Account(_, account) => Some(account),
            Self::ApiKey(..) => None,
        }
    }

    pub fn key_quotas(&self) -> Option<&KeyQuotas> {
        match self {
            Self::ApiKey(_, quotas) => Some(quotas),
            Self::Account(..) => None,
        }
    }
}

/// Which of two states is the newer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Version {
    /// Grows with every change of the account.
    Account(i64),
    /// Tells two states of a key apart, and not which came first: rows come and go.
    ApiKey(String),
}

impl Version {
    fn of_key(quotas: &KeyQuotas) -> Self {
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

/// What a change makes of an entry.
#[derive(Debug, PartialEq, Eq)]
pub enum Applied {
    Next(CacheEntry),
    /// The entry has the change already.
    Known,
    /// Changes between the two were missed: the entry can't be used any more.
    Gap,
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

    /// The rule of the cache: `quota_deduct.lua` is the same in Redis.
    pub fn apply(&self, entry: &CacheEntry) -> Applied {
        let version = entry.version();
        if version != self.before() {
            return if version.is_at_least(&self.after()) { Applied::Known } else { Applied::Gap };
        }
        match (self, entry) {
            (Self::Account(change), CacheEntry::Account(user, account)) => {
                let mut account = account.clone();
                account.balance = change.balance;
                account.requests = change.requests.or(account.requests);
                account.quotas.extend(change.quotas.iter().map(|(key, quota)| (key.clone(), *quota)));
                Applied::Next(CacheEntry::Account(user.clone(), account))
            }
            (Self::ApiKey(change), CacheEntry::ApiKey(key, _)) => {
                Applied::Next(CacheEntry::ApiKey(key.clone(), change.quotas.clone()))
            }
            _ => Applied::Gap,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::biz::values::money::Money;

    fn balance(version: i64, micros: i64) -> Balance {
        Balance { amount: Money::from_micros(micros), held: Money::ZERO, version }
    }

    fn key(service: &str) -> (Month, ServiceName) {
        ("2026-11".parse().unwrap(), ServiceName::from_stored(service))
    }

    fn entry(version: i64, used: u32) -> CacheEntry {
        let quota = Quota { total: 10, used, held: 0 };
        let quotas = BTreeMap::from([(key("a"), quota), (key("b"), quota)]);
        CacheEntry::Account(
            UserId::from_stored("u"),
            AccountEntry { balance: balance(version, 5), requests: None, quotas },
        )
    }

    fn change(before: i64, service: &str, used: u32) -> Change {
        Change::Account(AccountChange {
            user: UserId::from_stored("u"),
            before,
            balance: balance(before + 1, 5),
            requests: None,
            quotas: BTreeMap::from([(key(service), Quota { total: 10, used, held: 0 })]),
        })
    }

    #[test]
    fn a_change_applies_to_the_state_it_began_with_alone() {
        let Applied::Next(next) = change(3, "a", 2).apply(&entry(3, 1)) else { panic!("not applied") };
        let account = next.account().unwrap();
        let month = key("a").0;
        assert_eq!(account.quota(month, &key("a").1).unwrap().used, 2);
        assert_eq!(account.quota(month, &key("b").1).unwrap().used, 1);
        assert_eq!(next.version(), Version::Account(4));
        assert_eq!(change(2, "a", 2).apply(&entry(3, 1)), Applied::Known);
        assert_eq!(change(4, "a", 2).apply(&entry(3, 1)), Applied::Gap);
    }

    #[test]
    fn changes_that_follow_each_other_are_one() {
        let both = change(3, "a", 2).then(&change(4, "b", 7)).unwrap();
        let Applied::Next(next) = both.apply(&entry(3, 1)) else { panic!("not applied") };
        let used = |service: &str| next.account().unwrap().quota(key(service).0, &key(service).1).unwrap().used;
        assert_eq!((used("a"), used("b"), next.version()), (2, 7, Version::Account(5)));
        assert_eq!(change(3, "a", 2).then(&change(5, "b", 7)), None);
    }
}
