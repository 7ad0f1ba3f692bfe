//! Caps and quotas of API keys, with the transactions that they count.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::{
    biz::{
        jobs::audit::counts::{CapCounts, Counting, KeyCounts},
        limits::key_quota::{KeyQuota, KeyQuotas, KnownSince, QuotaType},
        values::{
            calendar::Month,
            error::StoreError,
            ids::{ApiKeyId, UserId},
        },
    },
    data::{
        row::Columns,
        rows::{
            account::{requests_of, user_of},
            key_quota::{add, known_since_at},
            transaction::transaction_of,
        },
    },
};

/// The caps of `{users}`.
pub(in crate::data) const CAPS: &str = "SELECT user_id, usage_date, daily_limit, monthly_limit, daily_used, monthly_used, \
    created_at, fired_daily, fired_monthly FROM tenant_quota WHERE user_id IN ({users})";

/// The transactions of `{users}` since `{from}`.
pub(in crate::data) const CALLS_OF_USERS: &str =
    "SELECT {columns} FROM settled_transaction WHERE user_id IN ({users}) AND created_at >= {from}";

/// The first `{limit}` API keys with quotas behind `{id}`.
pub(in crate::data) const KEYS_WITH_QUOTAS: &str =
    "SELECT DISTINCT api_key_id FROM api_key_quota WHERE api_key_id > {id} ORDER BY api_key_id LIMIT {limit}";

/// The API keys from `{first_key}` to `{last_key}` in the transactions of the users behind `{first}` up to `{last}`.
pub(in crate::data) const USERS_OF_KEYS: &str = "SELECT DISTINCT api_key_id, user_id FROM settled_transaction \
    WHERE user_id > {first} AND user_id <= {last} AND api_key_id >= {first_key} AND api_key_id <= {last_key}";

/// The quotas of `{keys}`.
pub(in crate::data) const KEY_QUOTAS: &str = "SELECT api_key_id, quota_type, period, quota_limit, used, usage_date, created_at, \
    version, used_day, used_month, used_total, fired, COALESCE(day_since, created_at), \
    COALESCE(month_since, created_at), COALESCE(total_since, created_at) FROM api_key_quota \
    WHERE api_key_id IN ({keys}) ORDER BY api_key_id, quota_type";

/// The transactions with `{keys}` since `{from}`, of some users or of all.
pub(in crate::data) fn calls_of_keys(users: Option<&[UserId]>) -> &'static str {
    match users {
        Some(_) => {
            "SELECT {columns} FROM settled_transaction WHERE user_id IN ({users}) AND api_key_id IN ({keys}) \
             AND created_at >= {from}"
        }
        None => "SELECT {columns} FROM settled_transaction WHERE api_key_id IN ({keys}) AND created_at >= {from}",
    }
}

/// A row of [`CAPS`]; `None` if it cannot be read. The books name it if a limit or a count is the reason.
pub(in crate::data) fn cap_counts_of(row: &impl Columns, rule: Counting) -> Result<Option<CapCounts>, StoreError> {
    let user = user_of(row)?;
    Ok(requests_of(row, 1).ok().flatten().map(|stored| CapCounts::new(user, stored, rule)))
}

/// The users by the month in which their counts end, each with the time from which their transactions count.
pub(in crate::data) fn by_month(counts: &BTreeMap<UserId, CapCounts>) -> Vec<(Vec<UserId>, DateTime<Utc>)> {
    let mut months: BTreeMap<Month, (Vec<UserId>, DateTime<Utc>)> = BTreeMap::new();
    for counts in counts.values() {
        let (users, from) = months.entry(counts.of_month()).or_insert((Vec::new(), DateTime::<Utc>::MAX_UTC));
        users.push(counts.user().clone());
        *from = counts.from().min(*from);
    }
    months.into_values().collect()
}

/// Counts a transaction toward the caps of its user.
pub(in crate::data) fn count_of_cap(
    counts: &mut BTreeMap<UserId, CapCounts>,
    row: &impl Columns,
) -> Result<(), StoreError> {
    let Some(counts) = counts.get_mut(&user_of(row)?) else { return Ok(()) };
    match transaction_of(row) {
        Ok(transaction) => counts.add(&transaction),
        Err(StoreError::Failed(why)) => counts.add_unreadable(unreadable(row, &why)),
        Err(error) => return Err(error),
    }
    Ok(())
}

/// The API keys and users of some rows. A key that is no text is left out, because the quota of such a key is not
/// audited either.
pub(in crate::data) fn keys_and_users_of(rows: &[impl Columns]) -> Result<Vec<(ApiKeyId, UserId)>, StoreError> {
    let keys = rows.iter().filter_map(|row| Some((ApiKeyId::from_stored(row.text(0).ok()?), row)));
    keys.map(|(key, row)| Ok((key, UserId::from_stored(row.text(1)?)))).collect()
}

/// The rows of [`KEY_QUOTAS`] by key.
pub(in crate::data) fn by_key(
    rows: &[impl Columns],
    rule: Counting,
) -> Result<BTreeMap<ApiKeyId, KeyCounts>, StoreError> {
    let mut counts = BTreeMap::new();
    for row in rows {
        if let Some(((key, kind), stored, known)) = key_quota_of(row)? {
            let of_key = counts.entry(key.clone()).or_insert_with(|| KeyCounts::new(key, rule));
            of_key.add_quota(kind, stored, known);
        }
    }
    Ok(counts)
}

/// The time from which transactions count toward the quotas of some keys; `None` if there are none to read.
pub(in crate::data) fn first_of_keys(
    counts: &BTreeMap<ApiKeyId, KeyCounts>,
    users: Option<&[UserId]>,
) -> Option<DateTime<Utc>> {
    let from = counts.values().filter_map(KeyCounts::from).min();
    from.filter(|_| users.is_none_or(|users| !users.is_empty()))
}

/// A quota of an API key, and since when its use in each period is known in full.
type StoredKeyQuota = ((ApiKeyId, QuotaType), KeyQuota, KnownSince);

/// A row of [`KEY_QUOTAS`]; `None` if it cannot be read, which the audit names by itself.
fn key_quota_of(row: &impl Columns) -> Result<Option<StoredKeyQuota>, StoreError> {
    let mut quotas = KeyQuotas::new();
    if let Err(StoreError::Failed(_)) = add(&mut quotas, row) {
        return Ok(None);
    }
    let Some((of, quota)) = quotas.into_iter().next() else { return Ok(None) };
    if quota.limit < 0 || quota.taken.of(quota.period) < 0 || quota.version < 0 {
        return Ok(None);
    }
    Ok(Some((of, quota, known_since_at(row, 12)?)))
}

/// Counts a transaction toward the quotas of its key.
pub(in crate::data) fn count_of_key(
    counts: &mut BTreeMap<ApiKeyId, KeyCounts>,
    row: &impl Columns,
) -> Result<(), StoreError> {
    let key = row.optional_text(KEY_COLUMN)?.map(ApiKeyId::from_stored);
    let Some(counts) = key.and_then(|key| counts.get_mut(&key)) else { return Ok(()) };
    match transaction_of(row) {
        Ok(transaction) => counts.add(&transaction),
        Err(StoreError::Failed(why)) => counts.add_unreadable(unreadable(row, &why)),
        Err(error) => return Err(error),
    }
    Ok(())
}

/// The API key in the columns of [`transaction_of`].
const KEY_COLUMN: usize = 6;

fn unreadable(row: &impl Columns, why: &str) -> String {
    format!("transaction {}: {why}", row.text(1).unwrap_or_else(|_| "?".into()))
}

#[cfg(test)]
mod tests {
    use chrono_tz::UTC;

    use super::*;
    use crate::biz::{
        jobs::audit::unsure,
        limits::key_quota::{Period, Taken},
        values::calendar::{Calendar, SystemClock},
    };

    #[test]
    fn a_key_whose_use_is_known_in_no_period_asks_for_no_transactions() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let [since, later] = ["2026-11-20T10:00:00Z", "2026-11-20T12:00:00Z"].map(at);
        let key = |name: &str, known: DateTime<Utc>| {
            let rule = Counting {
                periods: Calendar::new(UTC, SystemClock).periods(),
                unsure: unsure(Default::default(), Default::default()),
            };
            let (taken, day) = (Taken { day: 0, month: 0, total: 0 }, since.date_naive());
            let quota = KeyQuota { period: Period::Total, limit: 9, taken, since, day, fired: 0, version: 0 };
            let mut counts = KeyCounts::new(ApiKeyId::from_stored(name), rule);
            counts.add_quota(QuotaType::Requests, quota, KnownSince { day: known, month: known, total: known });
            (counts.key().clone(), counts)
        };
        let unknown = || key("unknown", later);
        assert_eq!(first_of_keys(&BTreeMap::from([unknown()]), None), None);
        let both = BTreeMap::from([unknown(), key("known", since)]);
        assert_eq!(first_of_keys(&both, None), Some(at("2026-11-20T09:58:00Z")));
        assert_eq!(first_of_keys(&both, Some(&[])), None);
    }
}
