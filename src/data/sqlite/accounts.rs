//! Accounts: one row of `user_balance`, and a row of `free_quota` per service and month.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use sqlx::{Sqlite, Transaction, sqlite::SqliteRow};
use uuid::Uuid;

use super::{SqliteStore, corrupt, json_rows, money, number, optional_text, store_error, text};
use crate::biz::{
    account::{Account, AccountStore, Balance, Quota},
    calendar::{BillingTime, Month},
    catalog::Catalog,
    error::StoreError,
    ids::{ServiceName, UserId},
    settlement::{
        keys::Keys,
        rule::{QuotaKey, State},
    },
};

#[async_trait]
impl AccountStore for SqliteStore {
    async fn account(&self, user: &UserId, month: Month) -> Result<Option<Account>, StoreError> {
        let rows = sqlx::query(
            "SELECT b.balance, b.held, b.version, q.service_name, q.total_quota, q.used_quota, q.held_quota \
             FROM user_balance b \
             LEFT JOIN free_quota q ON q.user_id = b.user_id AND q.reset_month = ? \
             WHERE b.user_id = ?",
        )
        .bind(month.to_string())
        .bind(user.as_str())
        .fetch_all(&self.reader)
        .await
        .map_err(store_error)?;
        let Some(first) = rows.first() else {
            return Ok(None);
        };
        let mut account = Account { balance: balance_of(first, 0)?, quotas: BTreeMap::new() };
        for row in &rows {
            if let Some(service) = optional_text(row, 3)? {
                account.quotas.insert(ServiceName::from_stored(service), quota_of(row, 4)?);
            }
        }
        Ok(Some(account))
    }
}

/// Creates the rows that `users` lack; the writer's transaction keeps others out.
pub(super) async fn insert_missing(
    transaction: &mut Transaction<'_, Sqlite>,
    users: &BTreeSet<UserId>,
    at: BillingTime,
    catalog: &Catalog,
) -> Result<(), StoreError> {
    let balances = json_rows(users.iter().map(|user| (Uuid::now_v7().to_string(), user.as_str())))?;
    sqlx::query(
        "INSERT INTO user_balance (user_balance_id, user_id, balance, version, created_at, updated_at) \
         SELECT value ->> 0, value ->> 1, 0, 0, ?2, ?2 FROM json_each(?1) WHERE true \
         ON CONFLICT DO NOTHING",
    )
    .bind(balances)
    .bind(at.utc.timestamp_micros())
    .execute(&mut **transaction)
    .await
    .map_err(store_error)?;

    let quotas = json_rows(users.iter().flat_map(|user| {
        catalog
            .iter()
            .map(|(service, plan)| (Uuid::now_v7().to_string(), user.as_str(), service.as_str(), plan.free_quota))
    }))?;
    sqlx::query(
        "INSERT INTO free_quota \
         (free_quota_id, user_id, service_name, total_quota, used_quota, reset_month, created_at, updated_at) \
         SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, 0, ?2, ?3, ?3 FROM json_each(?1) WHERE true \
         ON CONFLICT DO NOTHING",
    )
    .bind(quotas)
    .bind(at.month.to_string())
    .bind(at.utc.timestamp_micros())
    .execute(&mut **transaction)
    .await
    .map_err(store_error)?;
    Ok(())
}

/// Loads the balances of the batch and the quotas that it needs.
pub(super) async fn load_accounts(
    transaction: &mut Transaction<'_, Sqlite>,
    keys: &Keys<'_>,
    month: Month,
    state: &mut State,
) -> Result<(), StoreError> {
    let rows = sqlx::query(
        "SELECT user_id, balance, held, version FROM user_balance WHERE user_id IN (SELECT value FROM json_each(?))",
    )
    .bind(json_rows(keys.users.iter().map(|user| user.as_str()))?)
    .fetch_all(&mut **transaction)
    .await
    .map_err(store_error)?;
    for row in &rows {
        state.balances.insert(UserId::from_stored(text(row, 0)?), balance_of(row, 1)?);
    }
    if !keys.quotas.is_empty() {
        let rows = sqlx::query(
            "SELECT q.user_id, q.reset_month, q.service_name, q.total_quota, q.used_quota, q.held_quota \
             FROM json_each(?) wanted CROSS JOIN free_quota q \
             ON q.user_id = wanted.value ->> 0 AND q.reset_month = ? AND q.service_name = wanted.value ->> 1",
        )
        .bind(json_rows(keys.quotas.iter().map(|(user, service)| (user.as_str(), service.as_str())))?)
        .bind(month.to_string())
        .fetch_all(&mut **transaction)
        .await
        .map_err(store_error)?;
        add_quotas(&mut state.quotas, &rows)?;
    }
    if !keys.ending.is_empty() {
        // A reservation holds the quota of the month it was made in.
        let rows = sqlx::query(
            "SELECT q.user_id, q.reset_month, q.service_name, q.total_quota, q.used_quota, q.held_quota \
             FROM json_each(?) wanted CROSS JOIN billing_transaction t \
             ON t.user_id = wanted.value ->> 0 AND t.trace_id = wanted.value ->> 1 \
             CROSS JOIN free_quota q ON q.user_id = t.user_id \
             AND q.reset_month = substr(t.usage_date, 1, 7) AND q.service_name = t.service_name",
        )
        .bind(json_rows(keys.ending.iter().map(|(user, trace)| (user.as_str(), trace.as_str())))?)
        .fetch_all(&mut **transaction)
        .await
        .map_err(store_error)?;
        add_quotas(&mut state.quotas, &rows)?;
    }
    Ok(())
}

pub(super) async fn set_balances(
    transaction: &mut Transaction<'_, Sqlite>,
    balances: &[(UserId, Balance)],
    at: BillingTime,
) -> Result<(), StoreError> {
    let rows = balances
        .iter()
        .map(|(user, balance)| (user.as_str(), balance.amount.micros(), balance.held.micros(), balance.version));
    sqlx::query(
        "UPDATE user_balance SET balance = new.value ->> 1, held = new.value ->> 2, version = new.value ->> 3, \
         updated_at = ?2 FROM json_each(?1) new WHERE user_id = new.value ->> 0",
    )
    .bind(json_rows(rows)?)
    .bind(at.utc.timestamp_micros())
    .execute(&mut **transaction)
    .await
    .map(|_| ())
    .map_err(store_error)
}

pub(super) async fn set_quotas(
    transaction: &mut Transaction<'_, Sqlite>,
    quotas: &[(QuotaKey, Quota)],
    at: BillingTime,
) -> Result<(), StoreError> {
    let rows = quotas.iter().map(|((user, month, service), quota)| {
        (user.as_str(), month.to_string(), service.as_str(), quota.used, quota.held)
    });
    sqlx::query(
        "UPDATE free_quota SET used_quota = new.value ->> 3, held_quota = new.value ->> 4, updated_at = ?2 \
         FROM json_each(?1) new WHERE user_id = new.value ->> 0 AND reset_month = new.value ->> 1 \
         AND service_name = new.value ->> 2",
    )
    .bind(json_rows(rows)?)
    .bind(at.utc.timestamp_micros())
    .execute(&mut **transaction)
    .await
    .map(|_| ())
    .map_err(store_error)
}

fn add_quotas(quotas: &mut BTreeMap<QuotaKey, Quota>, rows: &[SqliteRow]) -> Result<(), StoreError> {
    for row in rows {
        let month = text(row, 1)?.parse().map_err(|_| corrupt("month"))?;
        let key = (UserId::from_stored(text(row, 0)?), month, ServiceName::from_stored(text(row, 2)?));
        quotas.insert(key, quota_of(row, 3)?);
    }
    Ok(())
}

/// Three columns from `first` on.
fn balance_of(row: &SqliteRow, first: usize) -> Result<Balance, StoreError> {
    Ok(Balance { amount: money(row, first)?, held: money(row, first + 1)?, version: number(row, first + 2)? })
}

/// Three columns from `first` on.
fn quota_of(row: &SqliteRow, first: usize) -> Result<Quota, StoreError> {
    Ok(Quota { total: number(row, first)?, used: number(row, first + 1)?, held: number(row, first + 2)? })
}
