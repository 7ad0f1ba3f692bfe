//! Accounts: one row of `user_balance`, and a row of `free_quota` per service and month.

use std::collections::BTreeMap;

use async_trait::async_trait;
use sqlx::{MySqlConnection, mysql::MySqlRow};
use uuid::Uuid;

use super::{MySqlStore, money, number, optional_text, statement::Statement, store_error, text};
use crate::biz::{
    account::{Account, AccountStore, Quota},
    calendar::{BillingTime, Month},
    catalog::Catalog,
    error::StoreError,
    ids::{ServiceName, UserId},
};

/// Opening is a pair of statements that commit by themselves; losing a deadlock repeats them this often.
const OPEN_ATTEMPTS: u32 = 5;
/// Rows of one insert: about a megabyte, a fraction of the smallest packet limit in use.
const MAX_QUOTA_ROWS: usize = 8_000;

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
}

/// Creates what is missing of the users' accounts: a zero balance, and the quota
/// rows of the month for every service. Existing rows stay as they are, and
/// concurrent calls do not collide. `connection` is in no transaction.
pub(super) async fn open(
    connection: &mut MySqlConnection,
    users: &[UserId],
    at: BillingTime,
    catalog: &Catalog,
) -> Result<(), StoreError> {
    let services = catalog.services().count().max(1);
    for chunk in users.chunks((MAX_QUOTA_ROWS / services).max(1)) {
        let mut attempt = 1;
        loop {
            match insert_missing(connection, chunk, at, catalog).await {
                Err(StoreError::Conflict(_)) if attempt < OPEN_ATTEMPTS => attempt += 1,
                done => break done?,
            }
        }
    }
    Ok(())
}

async fn insert_missing(
    connection: &mut MySqlConnection,
    users: &[UserId],
    at: BillingTime,
    catalog: &Catalog,
) -> Result<(), StoreError> {
    let mut insert = Statement::new(
        "INSERT IGNORE INTO user_balance (user_balance_id, user_id, balance, version, created_at, updated_at) VALUES ",
    );
    insert.rows(users, |row, user| {
        row.text(&Uuid::now_v7().to_string()).text(user.as_str()).number(0).number(0).instant(at.utc).instant(at.utc);
    });
    let rows: Vec<_> =
        users.iter().flat_map(|user| catalog.iter().map(move |(service, plan)| (user, service, plan))).collect();
    insert.push(
        "; INSERT IGNORE INTO free_quota \
         (free_quota_id, user_id, service_name, total_quota, used_quota, reset_month, created_at, updated_at) VALUES ",
    );
    let month = at.month.to_string();
    insert.rows(rows, |row, (user, service, plan)| {
        row.text(&Uuid::now_v7().to_string()).text(user.as_str()).text(service.as_str());
        row.number(plan.free_quota).number(0).text(&month).instant(at.utc).instant(at.utc);
    });
    insert.execute(connection).await
}

/// Locks the accounts of `users`, which are in key order, and then reads their quotas
/// of `month`. The balance row is the lock of the whole account.
pub(super) fn lock_accounts(statement: &mut Statement, users: &[&UserId], month: Month) {
    let ids = || users.iter().map(|user| user.as_str());
    statement
        .push("SELECT user_id, balance, version FROM user_balance WHERE user_id IN (")
        .texts(ids())
        .push(") ORDER BY user_id FOR UPDATE; ")
        .push("SELECT user_id, service_name, total_quota, used_quota FROM free_quota WHERE reset_month = ")
        .texts([month.to_string().as_str()])
        .push(" AND user_id IN (")
        .texts(ids())
        .push("); ");
}

/// The accounts out of the two row sets of [`lock_accounts`].
pub(super) fn accounts_of(balances: &[MySqlRow], quotas: &[MySqlRow]) -> Result<BTreeMap<UserId, Account>, StoreError> {
    let mut accounts = BTreeMap::new();
    for row in balances {
        let account = Account { balance: money(row, 1)?, version: number(row, 2)?, quotas: Vec::new() };
        accounts.insert(UserId::from_stored(text(row, 0)?), account);
    }
    for row in quotas {
        if let Some(account) = accounts.get_mut(&UserId::from_stored(text(row, 0)?)) {
            account.quotas.push(quota(row, text(row, 1)?, 2)?);
        }
    }
    Ok(accounts)
}

fn quota(row: &MySqlRow, service: String, total_column: usize) -> Result<Quota, StoreError> {
    Ok(Quota {
        service: ServiceName::from_stored(service),
        total: number(row, total_column)?,
        used: number(row, total_column + 1)?,
    })
}
