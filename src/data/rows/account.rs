//! Accounts: `user_balance`, with `free_quota` and `tenant_quota`.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, Utc};

use crate::{
    biz::{
        account::{Account, Balance, Quota, users::UserSpan},
        events::alerts::{Alerts, Watch},
        limits::caps::{Caps, Requests},
        values::{
            error::StoreError,
            ids::{PlanName, ServiceName, UserId},
        },
    },
    data::{column_codes::account_status_of, error::corrupt, row::Columns},
};

/// A user, in the first column.
pub fn user_of(row: &impl Columns) -> Result<UserId, StoreError> {
    row.text(0).map(UserId::from_stored)
}

/// Five columns from `first` on: amount, held, version, status, plan.
pub fn balance_of(row: &impl Columns, first: usize) -> Result<Balance, StoreError> {
    Ok(Balance {
        amount: row.money(first)?,
        held: row.money(first + 1)?,
        version: row.number(first + 2)?,
        status: account_status_of(row.number(first + 3)?)?,
        plan: row.optional_text(first + 4)?.as_deref().map(PlanName::from_stored),
    })
}

/// Two columns from `first` on: whether it is exhausted, and the alerts.
pub fn watch_of(row: &impl Columns, first: usize) -> Result<Watch, StoreError> {
    let alerts = row.optional_text(first + 1)?;
    let alerts = alerts.map(|text| Alerts::from_stored(&text).ok_or_else(|| corrupt("alerts"))).transpose()?;
    Ok(Watch { is_exhausted: row.number::<i64>(first)? != 0, alerts: alerts.map(Arc::new) })
}

/// Three columns from `first` on: total, used, held.
pub fn quota_of(row: &impl Columns, first: usize) -> Result<Quota, StoreError> {
    Ok(Quota { total: row.number(first)?, used: row.number(first + 1)?, held: row.number(first + 2)? })
}

/// Six columns from `first` on, all NULL for a user without caps: day, daily and monthly cap, daily
/// and monthly calls, start of the count.
pub fn requests_of(row: &impl Columns, first: usize) -> Result<Option<Requests>, StoreError> {
    let Some(day) = row.optional_day(first)? else { return Ok(None) };
    Ok(Some(Requests {
        caps: Caps { daily: row.optional_number(first + 1)?, monthly: row.optional_number(first + 2)? },
        since: row.time(first + 5)?,
        day,
        daily: row.number(first + 3)?,
        monthly: row.number(first + 4)?,
    }))
}

/// An account from its rows, one for each quota: the balance, the service and its quota, the caps.
pub fn account_of(rows: &[impl Columns]) -> Result<Option<Account>, StoreError> {
    let Some(first) = rows.first() else { return Ok(None) };
    let mut quotas = BTreeMap::new();
    for row in rows {
        if let Some(service) = row.optional_text(5)? {
            quotas.insert(ServiceName::from_stored(service), quota_of(row, 6)?);
        }
    }
    Ok(Some(Account { balance: balance_of(first, 0)?, quotas, requests: requests_of(first, 9)? }))
}

/// A user, and the last change of the account.
pub fn change_of(row: &impl Columns) -> Result<(UserId, DateTime<Utc>), StoreError> {
    Ok((user_of(row)?, row.time(1)?))
}

/// The users after `after`, up to the last one in the row, and their number. The last user is NULL
/// if there is none.
pub fn span_of(row: &impl Columns, after: Option<&UserId>) -> Result<Option<(UserSpan, u64)>, StoreError> {
    let Some(last) = row.optional_text(0)? else { return Ok(None) };
    Ok(Some((UserSpan { after: after.cloned(), last: UserId::from_stored(last) }, row.number(1)?)))
}
