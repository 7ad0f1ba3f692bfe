//! Accounts: one row of `user_balance`, and a row of `free_quota` per service and month.

use std::collections::BTreeMap;

use async_trait::async_trait;
use sqlx::{MySql, QueryBuilder, Row, mysql::MySqlRow};
use uuid::Uuid;

use super::{MySqlStore, money, number, optional_text, store_error, text};
use crate::biz::{
    account::{Account, AccountStore, Quota},
    calendar::{BillingTime, Month},
    catalog::Catalog,
    error::StoreError,
    ids::{ServiceName, UserId},
};

/// Opening is a pair of single statements; losing a deadlock repeats them this often.
const OPEN_ATTEMPTS: u32 = 5;

#[async_trait]
impl AccountStore for MySqlStore {
    async fn account(&self, user: &UserId, month: Month) -> Result<Option<Account>, StoreError> {
        let rows = sqlx::query(
            "SELECT b.balance, b.version, q.service_name, q.total_quota, q.used_quota \
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
        let mut account =
            Account { balance: money(first, 0)?, version: number(first, 1)?, quotas: Vec::with_capacity(rows.len()) };
        for row in &rows {
            if let Some(service) = optional_text(row, 2)? {
                account.quotas.push(quota(row, service, 3)?);
            }
        }
        account.quotas.sort_by(|a, b| a.service.cmp(&b.service));
        Ok(Some(account))
    }

    async fn open(&self, users: &[UserId], at: BillingTime, catalog: &Catalog) -> Result<u64, StoreError> {
        let mut users = users.to_vec();
        users.sort();
        users.dedup();
        let mut attempt = 1;
        loop {
            match self.insert_missing(&users, at, catalog).await {
                Err(StoreError::Conflict(_)) if attempt < OPEN_ATTEMPTS => attempt += 1,
                done => return done,
            }
        }
    }
}

impl MySqlStore {
    async fn insert_missing(&self, users: &[UserId], at: BillingTime, catalog: &Catalog) -> Result<u64, StoreError> {
        if users.is_empty() {
            return Ok(0);
        }
        let mut balances = QueryBuilder::<MySql>::new(
            "INSERT IGNORE INTO user_balance (user_balance_id, user_id, balance, version, created_at, updated_at) ",
        );
        balances.push_values(users, |mut row, user| {
            row.push_bind(Uuid::now_v7().to_string())
                .push_bind(user.as_str().to_owned())
                .push("0, 0")
                .push_bind(at.utc.naive_utc())
                .push_bind(at.utc.naive_utc());
        });
        let created = balances.build().persistent(false).execute(&self.reader).await.map_err(store_error)?;

        let rows: Vec<_> =
            users.iter().flat_map(|user| catalog.iter().map(move |(service, plan)| (user, service, plan))).collect();
        if !rows.is_empty() {
            let mut quotas = QueryBuilder::<MySql>::new(
                "INSERT IGNORE INTO free_quota \
                 (free_quota_id, user_id, service_name, total_quota, used_quota, reset_month, created_at, updated_at) ",
            );
            quotas.push_values(rows, |mut row, (user, service, plan)| {
                row.push_bind(Uuid::now_v7().to_string())
                    .push_bind(user.as_str().to_owned())
                    .push_bind(service.as_str().to_owned())
                    .push_bind(plan.free_quota)
                    .push("0")
                    .push_bind(at.month.to_string())
                    .push_bind(at.utc.naive_utc())
                    .push_bind(at.utc.naive_utc());
            });
            quotas.build().persistent(false).execute(&self.reader).await.map_err(store_error)?;
        }
        Ok(created.rows_affected())
    }
}

/// Locks the accounts of `users`, which are in key order, and loads them with their
/// quotas of `month`. The balance row is the lock of the whole account.
pub(super) async fn lock_accounts(
    transaction: &mut sqlx::Transaction<'_, MySql>,
    users: &[&UserId],
    month: Month,
) -> Result<BTreeMap<UserId, Account>, StoreError> {
    let mut query = QueryBuilder::<MySql>::new("SELECT user_id, balance, version FROM user_balance WHERE user_id IN (");
    push_users(&mut query, users);
    query.push(") ORDER BY user_id FOR UPDATE");
    let rows = query.build().persistent(false).fetch_all(&mut **transaction).await.map_err(store_error)?;
    let mut accounts = BTreeMap::new();
    for row in &rows {
        let account = Account { balance: money(row, 1)?, version: number(row, 2)?, quotas: Vec::new() };
        accounts.insert(UserId::from_stored(text(row, 0)?), account);
    }

    let mut query = QueryBuilder::<MySql>::new(
        "SELECT user_id, service_name, total_quota, used_quota FROM free_quota WHERE reset_month = ",
    );
    query.push_bind(month.to_string()).push(" AND user_id IN (");
    push_users(&mut query, users);
    query.push(")");
    let rows = query.build().persistent(false).fetch_all(&mut **transaction).await.map_err(store_error)?;
    for row in &rows {
        if let Some(account) = accounts.get_mut(&UserId::from_stored(text(row, 0)?)) {
            account.quotas.push(quota(row, text(row, 1)?, 2)?);
        }
    }
    Ok(accounts)
}

fn push_users(query: &mut QueryBuilder<MySql>, users: &[&UserId]) {
    let mut list = query.separated(", ");
    for user in users {
        list.push_bind(user.as_str().to_owned());
    }
}

fn quota(row: &MySqlRow, service: String, total_column: usize) -> Result<Quota, StoreError> {
    debug_assert!(row.len() > total_column + 1);
    Ok(Quota {
        service: ServiceName::from_stored(service),
        total: number(row, total_column)?,
        used: number(row, total_column + 1)?,
    })
}
