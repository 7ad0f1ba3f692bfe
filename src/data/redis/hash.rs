//! The hash of an entry, in a form that people can read. Amounts are decimals, several values of
//! one field are separated by spaces, and `-` means none.
//!
//! | field of an account | value |
//! | --- | --- |
//! | `version` | the version of the row in `user_balance` |
//! | `balance`, `held` | amounts |
//! | `status` | the status of the account; an entry without it counts as absent, because an earlier release stored it |
//! | `plan` | the plan of the user; as for `status` |
//! | `exhausted` | the last month in which a call was refused for money since a credit, or `-`; absent in entries of an earlier release |
//! | `requests` | since (microseconds), day, calls of that day, calls of its month, daily cap, monthly cap; absent without caps |
//! | `quota:MONTH:SERVICE` | total, used, held |
//!
//! | field of an API key | value |
//! | --- | --- |
//! | `version` | a text that differs between two states |
//! | `requests`, `tokens`, `amount` | period, limit, used in the period, since (microseconds), day, version of the row, used on the day, in its month and in total; absent or `-` without such a quota |

use std::{collections::BTreeMap, str::FromStr};

use chrono::{DateTime, Utc};
use redis::Value;

use crate::{
    biz::{
        account::{Balance, Quota},
        check::cache::entry::{AccountEntry, CacheEntry},
        limits::{
            caps::{Caps, Fired, Requests},
            key_quota::{KeyQuota, KeyQuotas, QuotaType, Taken},
        },
        settlement::change::Change,
        values::{
            cache_key::CacheKey,
            calendar::Month,
            error::StoreError,
            ids::{ApiKeyId, PlanName, ServiceName},
        },
    },
    data::error::corrupt,
};

const NONE: &str = "-";

/// A field and its value.
pub(super) type Field = (String, String);

/// All fields of an entry, without its version.
pub(super) fn fields(entry: &CacheEntry) -> Vec<Field> {
    match entry {
        CacheEntry::Account(_, account) => account_fields(&account.balance, account.requests.as_ref(), &account.quotas),
        CacheEntry::ApiKey(_, quotas) => key_fields(quotas),
    }
}

/// The fields that a change sets, without the version.
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

/// Parses the entry of a cache key from the reply to HGETALL; `None` for an empty hash, and for an
/// account without a status or a plan. A server of a release without them stored it, and does not know
/// whether the account is active and which prices it has. Such servers ignore the fields.
///
/// # Errors
/// [`StoreError::Failed`] for a malformed entry.
pub(super) fn entry(cache_key: &CacheKey, answer: &Value) -> Result<Option<CacheEntry>, StoreError> {
    let Value::Array(values) = answer else { return Err(corrupt("entry of the cache")) };
    if values.is_empty() {
        return Ok(None);
    }
    Ok(Some(match cache_key {
        CacheKey::User(user) => {
            let Some(account) = account_of(values)? else { return Ok(None) };
            CacheEntry::Account(user.clone(), account)
        }
        CacheKey::ApiKey(key) => CacheEntry::ApiKey(key.clone(), key_quotas_of(key, values)?),
    }))
}

/// The pairs of fields and values.
fn pairs(values: &[Value]) -> impl Iterator<Item = (&str, &str)> {
    values.chunks_exact(2).filter_map(|pair| Some((text_of(&pair[0])?, text_of(&pair[1])?)))
}

fn text_of(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    }
}

fn account_fields(
    balance: &Balance,
    requests: Option<&Requests>,
    quotas: &BTreeMap<(Month, ServiceName), Quota>,
) -> Vec<Field> {
    let mut fields = vec![
        ("balance".to_owned(), balance.amount.to_string()),
        ("held".to_owned(), balance.held.to_string()),
        ("status".to_owned(), balance.status.to_string()),
        ("plan".to_owned(), balance.plan.map_or_else(|| NONE.to_owned(), |plan| format!("={plan}"))),
        ("exhausted".to_owned(), balance.exhausted.map_or_else(|| NONE.to_owned(), |month| month.to_string())),
    ];
    if let Some(Requests { caps, since, day, daily, monthly, fired: _ }) = requests {
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
        let KeyQuota { period, limit, taken, since, day, version, fired: _ } = quota;
        let (used, since, Taken { day: of_day, month, total }) = (taken.of(*period), since.timestamp_micros(), *taken);
        let text = format!("{} {limit} {used} {since} {day} {version} {of_day} {month} {total}", period.name());
        (kind.to_string(), text)
    };
    quotas.iter().map(field).collect()
}

fn account_of(values: &[Value]) -> Result<Option<AccountEntry>, StoreError> {
    let (mut version, mut amount, mut held, mut status, mut requests) = (None, None, None, None, None);
    let (mut plan, mut exhausted) = (None, None);
    let mut quotas = BTreeMap::new();
    for (name, text) in pairs(values) {
        match name {
            "version" => version = Some(value(text)?),
            "balance" => amount = Some(value(text)?),
            "held" => held = Some(value(text)?),
            "status" => status = Some(value(text)?),
            "plan" => plan = Some(text.strip_prefix('=').map(PlanName::from_stored)),
            "exhausted" => exhausted = text.parse().ok(),
            "requests" => requests = Some(requests_of(text)?),
            _ => {
                let of = name.strip_prefix("quota:").and_then(|of| of.split_once(':'));
                let Some((month, service)) = of else { continue };
                let [total, used, held] = parts(text)?;
                let quota = Quota { total: value(total)?, used: value(used)?, held: value(held)? };
                quotas.insert((value(month)?, ServiceName::from_stored(service)), quota);
            }
        }
    }
    let lacks = || corrupt("entry of the cache");
    let (Some(status), Some(plan)) = (status, plan) else { return Ok(None) };
    let balance = Balance {
        amount: amount.ok_or_else(lacks)?,
        held: held.ok_or_else(lacks)?,
        version: version.ok_or_else(lacks)?,
        status,
        plan,
        exhausted,
    };
    Ok(Some(AccountEntry { balance, requests, quotas }))
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
        fired: Fired::default(),
    })
}

fn key_quotas_of(key: &ApiKeyId, values: &[Value]) -> Result<KeyQuotas, StoreError> {
    let mut quotas = KeyQuotas::new();
    for (name, text) in pairs(values) {
        let Ok(kind) = name.parse::<QuotaType>() else { continue };
        if text == NONE {
            continue;
        }
        let [period, limit, used, since, day, version, of_day, month, total] = parts(text)?;
        let period = value(period)?;
        let taken = match total {
            // Entries of an earlier release have no such counts, and checks do not need them.
            "" => Taken::default(),
            total => Taken { day: value(of_day)?, month: value(month)?, total: value(total)? },
        };
        let quota = KeyQuota {
            period,
            limit: value(limit)?,
            taken: taken.with(period, value(used)?),
            since: instant(since)?,
            day: value(day)?,
            fired: 0,
            version: value(version)?,
        };
        quotas.insert((key.clone(), kind), quota);
    }
    Ok(quotas)
}

fn parts<const N: usize>(text: &str) -> Result<[&str; N], StoreError> {
    let mut split = text.split(' ');
    let parts = std::array::from_fn(|_| split.next().unwrap_or_default());
    // A missing part is empty and fails to parse; an extra part is an error here.
    if split.next().is_some() { Err(corrupt("entry of the cache")) } else { Ok(parts) }
}

fn value<T: FromStr>(text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|_| corrupt("entry of the cache"))
}

fn instant(micros: &str) -> Result<DateTime<Utc>, StoreError> {
    DateTime::from_timestamp_micros(value(micros)?).ok_or_else(|| corrupt("entry of the cache"))
}
