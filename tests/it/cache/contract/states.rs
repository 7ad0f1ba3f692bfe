//! Accounts and API keys to cache, and their changes.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use billing_service::biz::{
    account::{Balance, Quota},
    check::cache::entry::{AccountEntry, CacheEntry},
    limits::{
        caps::{Caps, Fired, Requests},
        key_quota::{KeyQuota, KeyQuotas, Period, QuotaType, Taken},
    },
    settlement::change::{AccountChange, Change, KeyChange},
    values::{
        cache_key::CacheKey,
        calendar::Month,
        ids::{ApiKeyId, ServiceName, UserId},
        money::Money,
    },
};
use chrono::{DateTime, NaiveDate, Utc};

pub const NOVEMBER: &str = "2026-11";
pub const DECEMBER: &str = "2026-12";

pub fn fresh_user() -> UserId {
    UserId::from_stored(format!("u:{}@a.b", number()))
}

pub fn fresh_key() -> ApiKeyId {
    ApiKeyId::from_stored(format!("key {}", number()))
}

pub fn number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

pub fn balance(version: i64, amount: i64, held: i64) -> Balance {
    Balance { amount: Money::from_micros(amount), held: Money::from_micros(held), version, ..Balance::default() }
}

pub fn row(month: &str, service: &str) -> (Month, ServiceName) {
    (month.parse().unwrap(), ServiceName::from_stored(service))
}

pub fn quota(used: u32) -> Quota {
    Quota { total: 1_000, used: used.into(), held: 1 }
}

pub fn at(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(1_795_000_000_000_000 + micros).unwrap()
}

pub fn day() -> NaiveDate {
    NaiveDate::from_ymd_opt(2026, 11, 21).unwrap()
}

pub fn requests(daily: Option<u32>, monthly: Option<u32>, made: u32) -> Requests {
    Requests {
        caps: Caps { daily, monthly },
        since: at(17),
        day: day(),
        daily: made,
        monthly: made + 5,
        fired: Fired::default(),
    }
}

/// An account with this version and a quota of November.
pub fn account(user: &UserId, version: i64) -> CacheEntry {
    let quotas = BTreeMap::from([(row(NOVEMBER, "asset"), quota(version as u32))]);
    CacheEntry::Account(
        user.clone(),
        AccountEntry { balance: balance(version, version * 10, 0), requests: None, quotas },
    )
}

/// The change of an account from one version to a later one.
pub fn change(user: &UserId, before: i64, after: i64) -> Change {
    let CacheEntry::Account(user, AccountEntry { balance, requests, quotas }) = account(user, after) else {
        unreachable!()
    };
    Change::Account(AccountChange { user, before, balance, requests, quotas })
}

pub fn key_quota(version: i64) -> KeyQuota {
    let taken = Taken { day: version, month: version * 2, total: version * 3 };
    KeyQuota { period: Period::Day, limit: 1_000_000, taken, since: at(0), day: day(), fired: 0, version }
}

/// An API key with this version and a quota of requests.
pub fn api_key(key: &ApiKeyId, version: i64) -> CacheEntry {
    CacheEntry::ApiKey(key.clone(), quotas(key, version))
}

pub fn quotas(key: &ApiKeyId, version: i64) -> KeyQuotas {
    BTreeMap::from([((key.clone(), QuotaType::Requests), key_quota(version))])
}

pub fn key_change(key: &ApiKeyId, before: i64, after: i64) -> Change {
    Change::ApiKey(KeyChange::new(key, &quotas(key, before), quotas(key, after)))
}

pub fn user_of(user: &UserId) -> CacheKey {
    CacheKey::User(user.clone())
}

pub fn key_of(key: &ApiKeyId) -> CacheKey {
    CacheKey::ApiKey(key.clone())
}
