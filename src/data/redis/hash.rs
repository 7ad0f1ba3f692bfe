//! Entries as hashes, readable for people. Amounts are decimals, several values of one
//! field are separated by spaces, and `-` is none.
//!
//! | field of an account | value |
//! | --- | --- |
//! | `version` | that of `user_balance` |
//! | `balance`, `held` | amounts |
//! | `requests` | since (microseconds), day, calls of it, calls of its month, daily cap, monthly cap; where there are caps |
//! | `quota:MONTH:SERVICE` | total, used, held |
//!
//! | field of an API key | value |
//! | --- | --- |
//! | `version` | tells states apart |
//! | `requests`, `tokens`, `amount` | period, limit, used, since (microseconds), day, version of the row; where there is such a quota, else none |

use std::{
    collections::{BTreeMap, HashMap},
    str::FromStr,
};

use chrono::{DateTime, Utc};

use crate::{
    biz::{
        account::{Balance, Quota},
        calendar::Month,
        error::StoreError,
        ids::{ApiKeyId, ServiceName},
        key_quota::{KeyQuota, KeyQuotas, QuotaType},
        limit::{Caps, Requests},
        read_model::entry::{AccountEntry, Change, Entry, Subject},
    },
    data::error::corrupt,
};

const NONE: &str = "-";

/// A field and its value.
pub(super) type Field = (String, String);

/// All fields of an entry but its version.
pub(super) fn fields(entry: &Entry) -> Vec<Field> {
    match entry {
        Entry::Account(_, account) => account_fields(&account.balance, account.requests.as_ref(), &account.quotas),
        Entry::ApiKey(_, quotas) => key_fields(quotas),
    }
}

/// The fields that a change sets, but for the version.
pub(super) fn changed_fields(change: &Change) -> Vec<Field> {
    match change {
        Change::Account(change) => account_fields(&change.balance, change.requests.as_ref(), &change.quotas),
        Change::ApiKey(change) => {
            let kinds =
                QuotaType::ALL.into_iter().filter(|kind| !change.quotas.contains_key(&(change.key.clone(), *kind)));
            let gone = kinds.map(|kind| (kind.to_string(), NONE.to_owned()));
            key_fields(&change.quotas).into_iter().chain(gone).collect()
        }
    }
}

/// The entry of a subject; `None` of an empty hash.
///
/// # Errors
/// [`StoreError::Failed`] for what is none of ours.
pub(super) fn entry(subject: &Subject, hash: &HashMap<String, String>) -> Result<Option<Entry>, StoreError> {
    if hash.is_empty() {
        return Ok(None);
    }
    Ok(Some(match subject {
        Subject::User(user) => Entry::Account(user.clone(), account_of(hash)?),
        Subject::ApiKey(key) => Entry::ApiKey(key.clone(), key_quotas_of(key, hash)?),
    }))
}

fn account_fields(
    balance: &Balance,
    requests: Option<&Requests>,
    quotas: &BTreeMap<(Month, ServiceName), Quota>,
) -> Vec<Field> {
    let mut fields =
        vec![("balance".to_owned(), balance.amount.to_string()), ("held".to_owned(), balance.held.to_string())];
    if let Some(Requests { caps, since, day, daily, monthly }) = requests {
        let cap = |cap: Option<u32>| cap.map_or_else(|| NONE.to_owned(), |cap| cap.to_string());
        let (since, caps) = (since.timestamp_micros(), [cap(caps.daily), cap(caps.monthly)].join(" "));
        fields.push(("requests".to_owned(), format!("{since} {day} {daily} {monthly} {caps}")));
    }
    fields.extend(quotas.iter().map(|((month, service), quota)| {
        (format!("quota:{month}:{service}"), format!("{} {} {}", quota.total, quota.used, quota.held))
    }));
    fields
}

fn key_fields(quotas: &KeyQuotas) -> Vec<Field> {
    let field = |((_, kind), quota): (&(ApiKeyId, QuotaType), &KeyQuota)| {
        let KeyQuota { period, limit, used, since, day, version } = quota;
        let since = since.timestamp_micros();
        (kind.to_string(), format!("{} {limit} {used} {since} {day} {version}", period.name()))
    };
    quotas.iter().map(field).collect()
}

fn account_of(hash: &HashMap<String, String>) -> Result<AccountEntry, StoreError> {
    let field = |name: &str| hash.get(name).map(String::as_str).ok_or_else(|| corrupt("account"));
    let balance =
        Balance { amount: value(field("balance")?)?, held: value(field("held")?)?, version: value(field("version")?)? };
    let requests = hash.get("requests").map(|text| requests_of(text)).transpose()?;
    let mut quotas = BTreeMap::new();
    for (name, text) in hash {
        let Some((month, service)) = name.strip_prefix("quota:").and_then(|of| of.split_once(':')) else { continue };
        let [total, used, held] = parts(text)?;
        let quota = Quota { total: value(total)?, used: value(used)?, held: value(held)? };
        quotas.insert((value(month)?, ServiceName::from_stored(service)), quota);
    }
    Ok(AccountEntry { balance, requests, quotas })
}

fn requests_of(text: &str) -> Result<Requests, StoreError> {
    let [since, day, daily, monthly, daily_cap, monthly_cap] = parts(text)?;
    let cap = |text: &str| if text == NONE { Ok(None) } else { value(text).map(Some) };
    Ok(Requests {
        caps: Caps { daily: cap(daily_cap)?, monthly: cap(monthly_cap)? },
        since: instant(since)?,
        day: value(day)?,
        daily: value(daily)?,
        monthly: value(monthly)?,
    })
}

fn key_quotas_of(key: &ApiKeyId, hash: &HashMap<String, String>) -> Result<KeyQuotas, StoreError> {
    let mut quotas = KeyQuotas::new();
    for kind in QuotaType::ALL {
        let Some(text) = hash.get(kind.name()).filter(|text| *text != NONE) else { continue };
        let [period, limit, used, since, day, version] = parts(text)?;
        let quota = KeyQuota {
            period: value(period)?,
            limit: value(limit)?,
            used: value(used)?,
            since: instant(since)?,
            day: value(day)?,
            version: value(version)?,
        };
        quotas.insert((key.clone(), kind), quota);
    }
    Ok(quotas)
}

fn parts<const N: usize>(text: &str) -> Result<[&str; N], StoreError> {
    let parts: Vec<&str> = text.split(' ').collect();
    parts.try_into().map_err(|_| corrupt("entry of the cache"))
}

fn value<T: FromStr>(text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|_| corrupt("entry of the cache"))
}

fn instant(micros: &str) -> Result<DateTime<Utc>, StoreError> {
    DateTime::from_timestamp_micros(value(micros)?).ok_or_else(|| corrupt("entry of the cache"))
}
