//! The cache entries: an account with its caps, and the quotas of an API key. A committed
//! [`Change`] turns an entry into the next one.

use std::collections::BTreeMap;

use crate::biz::{
    account::{Account, Balance, Quota},
    limits::{caps::Requests, key_quota::KeyQuotas},
    settlement::change::{Change, Version},
    values::{
        cache_key::CacheKey,
        calendar::Month,
        ids::{ApiKeyId, ServiceName, UserId},
    },
};

/// A committed state of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheEntry {
    Account(UserId, AccountEntry),
    /// Also for a key without quotas, so that the database is not asked again.
    ApiKey(ApiKeyId, KeyQuotas),
}

/// An account. It may also hold quotas of other months, which are equally current.
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

    /// `None` if it is not known, for example because the month is not open yet.
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

    /// The rule by which a cache applies a change. `quota_deduct.lua` is the same rule in Redis.
    pub fn apply(&self, change: &Change) -> Applied {
        let version = self.version();
        if version != change.before() {
            return if version.is_at_least(&change.after()) { Applied::Known } else { Applied::Gap };
        }
        match (change, self) {
            (Change::Account(change), Self::Account(user, account)) => {
                let mut account = account.clone();
                account.balance = change.balance;
                account.requests = change.requests.or(account.requests);
                account.quotas.extend(change.quotas.iter().map(|(key, quota)| (key.clone(), *quota)));
                Applied::Next(Self::Account(user.clone(), account))
            }
            (Change::ApiKey(change), Self::ApiKey(key, _)) => {
                Applied::Next(Self::ApiKey(key.clone(), change.quotas.clone()))
            }
            _ => Applied::Gap,
        }
    }
}

/// The result of applying a change to an entry.
#[derive(Debug, PartialEq, Eq)]
pub enum Applied {
    Next(CacheEntry),
    /// The entry already includes the change.
    Known,
    /// A change in between is missing, so the entry must be dropped.
    Gap,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::biz::{settlement::change::AccountChange, values::money::Money};

    fn balance(version: i64, micros: i64) -> Balance {
        Balance { amount: Money::from_micros(micros), version, ..Balance::default() }
    }

    fn key(service: &str) -> (Month, ServiceName) {
        ("2026-11".parse().unwrap(), ServiceName::from_stored(service))
    }

    fn entry(version: i64, used: u64) -> CacheEntry {
        let quota = Quota { total: 10, used, held: 0 };
        let quotas = BTreeMap::from([(key("a"), quota), (key("b"), quota)]);
        CacheEntry::Account(
            UserId::from_stored("u"),
            AccountEntry { balance: balance(version, 5), requests: None, quotas },
        )
    }

    fn change(before: i64, service: &str, used: u64) -> Change {
        Change::Account(AccountChange {
            user: UserId::from_stored("u"),
            before,
            balance: balance(before + 1, 5),
            requests: None,
            quotas: BTreeMap::from([(key(service), Quota { total: 10, used, held: 0 })]),
        })
    }

    #[test]
    fn a_change_applies_only_to_the_version_it_started_from() {
        let Applied::Next(next) = entry(3, 1).apply(&change(3, "a", 2)) else { panic!("not applied") };
        let account = next.account().unwrap();
        let month = key("a").0;
        assert_eq!(account.quota(month, &key("a").1).unwrap().used, 2);
        assert_eq!(account.quota(month, &key("b").1).unwrap().used, 1);
        assert_eq!(next.version(), Version::Account(4));
        assert_eq!(entry(3, 1).apply(&change(2, "a", 2)), Applied::Known);
        assert_eq!(entry(3, 1).apply(&change(4, "a", 2)), Applied::Gap);
    }

    #[test]
    fn consecutive_changes_are_merged() {
        let both = change(3, "a", 2).then(&change(4, "b", 7)).unwrap();
        let Applied::Next(next) = entry(3, 1).apply(&both) else { panic!("not applied") };
        let used = |service: &str| next.account().unwrap().quota(key(service).0, &key(service).1).unwrap().used;
        assert_eq!((used("a"), used("b"), next.version()), (2, 7, Version::Account(5)));
        assert_eq!(change(3, "a", 2).then(&change(5, "b", 7)), None);
    }
}
