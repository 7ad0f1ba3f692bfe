//! Accounts: one row of `user_balance`, and a row of `free_quota` per service and month.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{MySqlConnection, Row as _, mysql::MySqlRow};
use uuid::Uuid;

use crate::{
    biz::{
        account::{ACTIVE_PAGE, Account, AccountStore, ActiveUsers, Balance, Quota, catalog::Catalog},
        settlement::{
            keys::Keys,
            rule::{QuotaKey, State},
        },
        values::{
            calendar::{BillingTime, Month},
            error::StoreError,
            ids::{ServiceName, UserId},
        },
    },
    data::{
        error::{corrupt, store_error},
        mysql::{
            MySqlStore,
            limits::caps,
            row::{money, number, optional_text, text},
            statement::Statement,
        },
    },
};

/// Opening is a pair of statements that commit by themselves; losing a deadlock repeats them this often.
const OPEN_ATTEMPTS: u32 = 5;
/// Rows of one insert: about a megabyte, a fraction of the smallest packet limit in use.
const MAX_QUOTA_ROWS: usize = 8_000;

#[async_trait]
impl AccountStore for MySqlStore {
    async fn account(&self, user: &UserId, month: Month) -> Result<Option<Account>, StoreError> {
        let query = sqlx::query(
            "SELECT b.balance, b.held, b.version, q.service_name, q.total_quota, q.used_quota, q.held_quota, \
             l.usage_date, l.daily_limit, l.monthly_limit, l.daily_used, l.monthly_used, l.created_at \
             FROM user_balance b LEFT JOIN tenant_quota l ON l.user_id = b.user_id \
             LEFT JOIN free_quota q ON q.user_id = b.user_id AND q.reset_month = ? \
             WHERE b.user_id = ?",
        )
        .bind(month.to_string())
        .bind(user.as_str());
        let rows = self.reader.fetch_all(query).await?;
        let Some(first) = rows.first() else {
            return Ok(None);
        };
        let (balance, requests) = (balance_of(first, 0)?, caps::requests_of(first, 7)?);
        let mut account = Account { balance, quotas: BTreeMap::new(), requests };
        for row in &rows {
            if let Some(service) = optional_text(row, 3)? {
                account.quotas.insert(ServiceName::from_stored(service), quota_of(row, 4)?);
            }
        }
        Ok(Some(account))
    }

    async fn active_users(&self, since: DateTime<Utc>, after: Option<&UserId>) -> Result<ActiveUsers, StoreError> {
        let query =
            sqlx::query("SELECT user_id, updated_at FROM user_balance WHERE user_id > ? ORDER BY user_id LIMIT ?")
                .bind(after.map_or("", |user| user.as_str()))
                .bind(ACTIVE_PAGE as u64);
        let rows = self.reader.fetch_all(query).await?;
        let user = |row: &MySqlRow| Ok((UserId::from_stored(text(row, 0)?), row.try_get(1).map_err(store_error)?));
        Ok(ActiveUsers::of_page(rows.iter().map(user).collect::<Result<_, StoreError>>()?, since))
    }
}

/// Creates what is missing of the users' accounts: a zero balance, and the quota
/// rows of the month for every service. Existing rows stay as they are, and
/// concurrent calls do not collide. `connection` is in no transaction.
pub async fn open(
    connection: &mut MySqlConnection,
    users: &BTreeSet<UserId>,
    at: BillingTime,
    catalog: &Catalog,
) -> Result<(), StoreError> {
    let users: Vec<&UserId> = users.iter().collect();
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
    users: &[&UserId],
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

/// Locks the account row of a user. A missing row can't be locked: for the transaction it is
/// made, with this id, and [`drop_if_made`] takes it away again.
pub fn lock_or_make(statement: &mut Statement, user: &UserId, id: Uuid, at: DateTime<Utc>) {
    statement
        .push("INSERT INTO user_balance (user_balance_id, user_id, balance, version, created_at, updated_at) VALUES ")
        .rows([user], |row, user| {
            row.text(&id.to_string()).text(user.as_str()).number(0).number(0).instant(at).instant(at);
        })
        .push(" ON DUPLICATE KEY UPDATE version = version; ");
}

/// Takes the row away that [`lock_or_make`] made; its lock lasts until the commit.
pub fn drop_if_made(statement: &mut Statement, user: &UserId, id: Uuid) {
    statement.push("DELETE FROM user_balance WHERE user_id = ").texts([user.as_str()]);
    statement.push(" AND user_balance_id = ").texts([id.to_string().as_str()]).push("; ");
}

/// Locks the accounts in key order, and reads them with their caps and the quotas of `month` that the
/// batch needs. The balance row is the lock of the whole account: its quotas are locked
/// only because this way they are read as they are now, and not as they were when the
/// statement began to wait.
pub fn lock(statement: &mut Statement, keys: &Keys<'_>, month: Month) {
    let services: BTreeSet<&str> = keys.quotas.iter().map(|(_, service)| service.as_str()).collect();
    statement
        .push(
            "SELECT b.user_id, b.balance, b.held, b.version, q.service_name, q.total_quota, q.used_quota, q.held_quota, \
             l.usage_date, l.daily_limit, l.monthly_limit, l.daily_used, l.monthly_used, l.created_at \
             FROM user_balance b LEFT JOIN tenant_quota l ON l.user_id = b.user_id LEFT JOIN free_quota q ON q.user_id = b.user_id AND q.reset_month = ",
        )
        .texts([month.to_string().as_str()])
        // NULL is in no list, and keeps an empty one from being an error.
        .push(" AND q.service_name IN (NULL, ")
        .texts(if services.is_empty() { BTreeSet::from([""]) } else { services })
        .push(") WHERE b.user_id IN (")
        .texts(keys.users.iter().map(|user| user.as_str()))
        .push(") ORDER BY b.user_id FOR UPDATE; ");
}

/// The rows of [`lock`]: one for each quota of an account, and one for an account without.
pub fn add_locked(state: &mut State, month: Month, rows: &[MySqlRow]) -> Result<(), StoreError> {
    for row in rows {
        let user = UserId::from_stored(text(row, 0)?);
        if let Some(service) = optional_text(row, 4)? {
            state.quotas.insert((user.clone(), month, ServiceName::from_stored(service)), quota_of(row, 5)?);
        }
        if let Some(requests) = caps::requests_of(row, 8)? {
            state.requests.insert(user.clone(), requests);
        }
        state.balances.insert(user, balance_of(row, 1)?);
    }
    Ok(())
}

/// Reads the quotas that reservations hold: those of the months they were made in.
pub fn read_held_quotas(statement: &mut Statement, keys: &Keys<'_>) {
    statement
        .push(
            "SELECT q.user_id, q.reset_month, q.service_name, q.total_quota, q.used_quota, q.held_quota \
             FROM billing_transaction t JOIN free_quota q ON q.user_id = t.user_id \
             AND q.reset_month = DATE_FORMAT(t.usage_date, '%Y-%m') AND q.service_name = t.service_name \
             WHERE (t.user_id, t.trace_id) IN (",
        )
        .pairs(&keys.ending)
        .push("); ");
}

/// The rows of [`read_held_quotas`].
pub fn add_held_quotas(state: &mut State, rows: &[MySqlRow]) -> Result<(), StoreError> {
    for row in rows {
        let month = text(row, 1)?.parse().map_err(|_| corrupt("month"))?;
        let key = (UserId::from_stored(text(row, 0)?), month, ServiceName::from_stored(text(row, 2)?));
        state.quotas.insert(key, quota_of(row, 3)?);
    }
    Ok(())
}

/// The rows are there and locked: the insert is only a way to update many rows to
/// different values in one statement.
pub fn set_balances(statement: &mut Statement, balances: &[(UserId, Balance)]) {
    statement
        .push("INSERT INTO user_balance (user_id, balance, held, version) VALUES ")
        .rows(balances, |row, (user, balance)| {
            row.text(user.as_str()).money(balance.amount).money(balance.held).number(balance.version);
        })
        .push(" ON DUPLICATE KEY UPDATE balance = VALUES(balance), held = VALUES(held), version = VALUES(version); ");
}

/// As [`set_balances`].
pub fn set_quotas(statement: &mut Statement, quotas: &[(QuotaKey, Quota)]) {
    statement
        .push("INSERT INTO free_quota (user_id, reset_month, service_name, used_quota, held_quota) VALUES ")
        .rows(quotas, |row, ((user, month, service), quota)| {
            row.text(user.as_str()).text(&month.to_string()).text(service.as_str());
            row.number(quota.used).number(quota.held);
        })
        .push(" ON DUPLICATE KEY UPDATE used_quota = VALUES(used_quota), held_quota = VALUES(held_quota); ");
}

/// Three columns from `first` on.
fn balance_of(row: &MySqlRow, first: usize) -> Result<Balance, StoreError> {
    Ok(Balance { amount: money(row, first)?, held: money(row, first + 1)?, version: number(row, first + 2)? })
}

/// Three columns from `first` on.
fn quota_of(row: &MySqlRow, first: usize) -> Result<Quota, StoreError> {
    Ok(Quota { total: number(row, first)?, used: number(row, first + 1)?, held: number(row, first + 2)? })
}
