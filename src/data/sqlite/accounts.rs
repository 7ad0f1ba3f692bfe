//! Accounts: one row of `user_balance`, and a row of `free_quota` per service and month.

use std::collections::BTreeMap;

use async_trait::async_trait;
use sqlx::{Sqlite, Transaction, sqlite::SqliteRow};
use uuid::Uuid;

use super::{SqliteStore, json_rows, money, number, optional_text, store_error, text};
use crate::biz::{
    account::{Account, AccountStore, Quota},
    calendar::{BillingTime, Month},
    catalog::Catalog,
    error::StoreError,
    ids::{ServiceName, UserId},
};

#[async_trait]
impl AccountStore for SqliteStore {
    async fn account(&self, user: &UserId, month: Month) -> Result<Option<Account>, StoreError> {
        let rows = sqlx::query(
            "SELECT b.balance, b.version, q.service_name, q.total_quota, q.used_quota \
             FROM user_balance b \
             LEFT JOIN free_quota q ON q.user_id = b.user_id AND q.reset_month = ? \
             WHERE b.user_id = ? ORDER BY q.service_name",
        )
        .bind(month.to_string())
        .bind(user.as_str())
        .fetch_all(&self.reader)
        .await
        .map_err(store_error)?;
        let Some(first) = rows.first() else {
            return Ok(None);
        };
        let mut account =
            Account { balance: money(first, 0)?, version: number(first, 1)?, quotas: Vec::with_capacity(rows.len()) };
        for row in &rows {
            if let Some(service) = optional_text(row, 2)? {
                account.quotas.push(quota(row, service, 3)?);
            }
        }
        Ok(Some(account))
    }
}

/// Creates the rows that `users` lack; the writer's transaction keeps others out.
pub(super) async fn insert_missing(
    transaction: &mut Transaction<'_, Sqlite>,
    users: &[UserId],
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

/// Loads the accounts of `users` with their quotas of `month`.
pub(super) async fn load_accounts(
    transaction: &mut Transaction<'_, Sqlite>,
    users: &[&UserId],
    month: Month,
) -> Result<BTreeMap<UserId, Account>, StoreError> {
    let ids = json_rows(users.iter().map(|user| user.as_str()))?;
    let rows = sqlx::query(
        "SELECT user_id, balance, version FROM user_balance WHERE user_id IN (SELECT value FROM json_each(?))",
    )
    .bind(&ids)
    .fetch_all(&mut **transaction)
    .await
    .map_err(store_error)?;
    let mut accounts = BTreeMap::new();
    for row in &rows {
        let account = Account { balance: money(row, 1)?, version: number(row, 2)?, quotas: Vec::new() };
        accounts.insert(UserId::from_stored(text(row, 0)?), account);
    }
    let rows = sqlx::query(
        "SELECT user_id, service_name, total_quota, used_quota FROM free_quota \
         WHERE reset_month = ? AND user_id IN (SELECT value FROM json_each(?))",
    )
    .bind(month.to_string())
    .bind(&ids)
    .fetch_all(&mut **transaction)
    .await
    .map_err(store_error)?;
    for row in &rows {
        if let Some(account) = accounts.get_mut(&UserId::from_stored(text(row, 0)?)) {
            account.quotas.push(quota(row, text(row, 1)?, 2)?);
        }
    }
    Ok(accounts)
}

fn quota(row: &SqliteRow, service: String, total_column: usize) -> Result<Quota, StoreError> {
    Ok(Quota {
        service: ServiceName::from_stored(service),
        total: number(row, total_column)?,
        used: number(row, total_column + 1)?,
    })
}
