//! Accounts: one row of `user_balance`, and a row of `free_quota` per service and month.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use async_trait::async_trait;
use backon::{ExponentialBuilder, RetryableWithContext};
use chrono::{DateTime, Utc};
use sqlx::mysql::MySqlRow;
use uuid::Uuid;

use crate::{
    biz::{
        account::{ACTIVE_PAGE, Account, AccountStore, ActiveUsers, Balance, Quota, catalog::Catalog},
        audit_trail::AuditEvent,
        events::alerts::Watch,
        settlement::{
            keys::Keys,
            lock::LeftOut,
            rule::{NewPlan, QuotaKey, State},
        },
        values::{
            account_status::AccountStatus,
            calendar::{BillingTime, Month},
            error::StoreError,
            ids::{PlanName, ServiceName, UserId},
        },
    },
    data::{
        column_codes::account_status_number,
        error::corrupt,
        mysql::{
            MySqlStore, audit_trail,
            connections::{Connections, Lease},
            settlement::transactions::WITH_ARCHIVE,
            statement::{LockMode, Row, STALE, Statement},
        },
        row::Columns,
        rows::account::{account_of, balance_of, change_of, quota_of, requests_of, user_of, watch_of},
    },
};

/// Pauses between attempts to open accounts. Each of the two statements is a transaction, and
/// they are repeated after a deadlock.
const OPEN_BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(2))
    .with_max_delay(Duration::from_millis(50))
    .with_max_times(4)
    .with_jitter();
/// Largest number of rows in one INSERT. They take about a megabyte, well below `max_allowed_packet`.
const MAX_QUOTA_ROWS: usize = 8_000;

#[async_trait]
impl AccountStore for MySqlStore {
    async fn account(&self, user: &UserId, month: Month) -> Result<Option<Account>, StoreError> {
        read(&self.reader, user, month).await
    }

    async fn account_to_show(&self, user: &UserId, month: Month) -> Result<Option<Account>, StoreError> {
        read(&self.viewer, user, month).await
    }

    async fn active_users(&self, since: DateTime<Utc>, after: Option<&UserId>) -> Result<ActiveUsers, StoreError> {
        let query =
            sqlx::query("SELECT user_id, updated_at FROM user_balance WHERE user_id > ? ORDER BY user_id LIMIT ?")
                .bind(after.map_or("", |user| user.as_str()))
                .bind(ACTIVE_PAGE as u64);
        let rows = self.reader.fetch_all(query).await?;
        let changes: Result<_, StoreError> = rows.iter().map(change_of).collect();
        Ok(ActiveUsers::of_page(changes?, since))
    }
}

/// Accounts to open.
#[derive(Clone, Copy)]
pub struct NewAccounts<'n> {
    pub users: &'n BTreeSet<UserId>,
    /// The plans of some of them that have an account.
    pub plans: &'n BTreeMap<UserId, PlanName>,
    /// The events of some of them, each to be written with the row of its account.
    pub events: &'n BTreeMap<UserId, AuditEvent>,
    pub at: BillingTime,
    pub mode: LockMode,
}

async fn read(connections: &Connections, user: &UserId, month: Month) -> Result<Option<Account>, StoreError> {
    let query = sqlx::query(
        "SELECT b.balance, b.held, b.version, b.status, b.plan, q.service_name, q.total_quota, q.used_quota, q.held_quota, \
         l.usage_date, l.daily_limit, l.monthly_limit, l.daily_used, l.monthly_used, l.created_at, \
         l.fired_daily, l.fired_monthly, b.exhausted_month, b.alerts \
         FROM user_balance b LEFT JOIN tenant_quota l ON l.user_id = b.user_id \
         LEFT JOIN free_quota q ON q.user_id = b.user_id AND q.reset_month = ? \
         WHERE b.user_id = ?",
    )
    .bind(month.to_string())
    .bind(user.as_str());
    account_of(&connections.fetch_all(query).await?)
}

/// Creates the missing rows of the users' accounts: a zero balance, and the quota rows of the month
/// for every service. Existing rows stay as they are, and concurrent calls do not conflict.
/// `connection` must be in no transaction.
pub async fn open<'c>(
    mut connection: &'c mut Lease,
    new: NewAccounts<'_>,
    catalog: &Catalog,
) -> Result<(), StoreError> {
    let users: Vec<&UserId> = new.users.iter().collect();
    let services = catalog.services().count().max(1);
    for chunk in users.chunks((MAX_QUOTA_ROWS / services).max(1)) {
        let attempt = |connection: &'c mut Lease| async move {
            let done = insert_missing(chunk, new, catalog).execute(&mut *connection).await;
            (connection, done)
        };
        let opening = attempt.retry(OPEN_BACKOFF).context(connection);
        let (returned, done) = opening.when(|error| matches!(error, StoreError::Conflict(_))).await;
        connection = returned;
        done?;
    }
    Ok(())
}

fn insert_missing(users: &[&UserId], new: NewAccounts<'_>, catalog: &Catalog) -> Statement {
    let at = new.at;
    Statement::separate(new.mode, |insert| {
        insert.push(
        "INSERT IGNORE INTO user_balance (user_balance_id, user_id, balance, version, created_at, updated_at) VALUES ",
    );
        let accounts: Vec<(&UserId, Uuid)> = users.iter().map(|user| (*user, Uuid::now_v7())).collect();
        insert.rows(&accounts, |row, (user, id)| {
            row.text(&id.to_string()).text(user.as_str()).number(0).number(0).instant(at.utc).instant(at.utc);
        });
        insert.push("; ");
        for (user, id) in &accounts {
            if let Some(event) = new.events.get(*user) {
                audit_trail::insert_with_account(insert, event, user, *id);
            }
        }
        let mut rows = Vec::new();
        for user in users {
            let services = catalog.services_in(new.plans.get(*user).copied());
            rows.extend(services.map(|(service, terms)| (*user, service, terms)));
        }
        insert.push(
            "COMMIT; INSERT IGNORE INTO free_quota \
         (free_quota_id, user_id, service_name, total_quota, used_quota, reset_month, created_at, updated_at) VALUES ",
        );
        let month = at.month.to_string();
        insert.rows(rows, |row, (user, service, terms)| {
            row.text(&Uuid::now_v7().to_string()).text(user.as_str()).text(service.as_str());
            row.number(terms.free_quota).number(0).text(&month).instant(at.utc).instant(at.utc);
        });
        insert.push("; ");
    })
}

/// Locks the account row of a user. A missing row can't be locked, so the transaction inserts it
/// with this id, and [`delete_if_inserted`] deletes it again.
pub fn lock_or_insert(statement: &mut Statement, user: &UserId, id: Uuid, at: DateTime<Utc>) {
    statement
        .push("INSERT INTO user_balance (user_balance_id, user_id, balance, version, created_at, updated_at) VALUES ")
        .rows([user], |row, user| {
            row.text(&id.to_string()).text(user.as_str()).number(0).number(0).instant(at).instant(at);
        })
        .push(" ON DUPLICATE KEY UPDATE version = version; ");
}

/// Deletes the row that [`lock_or_insert`] inserted. Its lock lasts until the commit.
pub fn delete_if_inserted(statement: &mut Statement, user: &UserId, id: Uuid) {
    statement.push("DELETE FROM user_balance WHERE user_id = ").texts([user.as_str()]);
    statement.push(" AND user_balance_id = ").texts([id.to_string().as_str()]).push("; ");
}

/// Locks the accounts in key order, and reads them with their caps and with the quotas of `month`
/// that the batch needs. The balance row is the lock of the whole account. The quotas are locked
/// only because a locking read returns the current rows. A plain read would return the rows from
/// before the wait.
pub fn lock(statement: &mut Statement, keys: &Keys<'_>, month: Month, mode: LockMode) {
    statement
        .push(
            "SELECT b.user_id, b.balance, b.held, b.version, b.status, b.plan, q.service_name, q.total_quota, q.used_quota, q.held_quota, \
             l.usage_date, l.daily_limit, l.monthly_limit, l.daily_used, l.monthly_used, l.created_at, l.fired_daily, l.fired_monthly, b.exhausted_month, b.alerts \
             FROM user_balance b LEFT JOIN tenant_quota l ON l.user_id = b.user_id LEFT JOIN free_quota q ON q.user_id = b.user_id AND q.reset_month = ",
        )
        .texts([month.to_string().as_str()]);
    of_services(statement, keys);
    statement
        .push(" WHERE b.user_id IN (")
        .texts(keys.users.iter().map(|user| user.as_str()))
        .push(") ORDER BY b.user_id")
        .push(mode.suffix());
}

/// Waits until the row of an account is free, and locks it.
pub fn wait_for(statement: &mut Statement, user: &UserId) {
    statement.push("SELECT 1 FROM user_balance WHERE user_id = ").texts([user.as_str()]).push(" FOR UPDATE; ");
}

fn of_services(statement: &mut Statement, keys: &Keys<'_>) {
    let services: BTreeSet<&str> = keys.quotas.iter().map(|(_, service)| service.as_str()).collect();
    statement
        // NULL matches nothing, and keeps an empty list valid.
        .push(" AND q.service_name IN (NULL, ")
        .texts(if services.is_empty() { BTreeSet::from([""]) } else { services })
        .push(")");
}

/// Reads the keys of the rows of some accounts by a plain read, which ignores locks.
pub fn read_present(statement: &mut Statement, users: &BTreeSet<&UserId>, keys: &Keys<'_>, month: Month) {
    statement
        .push(
            "SELECT b.user_id, q.service_name FROM user_balance b \
             LEFT JOIN free_quota q ON q.user_id = b.user_id AND q.reset_month = ",
        )
        .texts([month.to_string().as_str()]);
    of_services(statement, keys);
    statement.push(" WHERE b.user_id IN (").texts(users.iter().map(|user| user.as_str())).push("); ");
}

/// The users of the rows of [`read_present`] that [`lock`] did not find.
pub fn locked_by_others(state: &State, month: Month, rows: &[MySqlRow]) -> Result<BTreeSet<UserId>, StoreError> {
    let mut users = BTreeSet::new();
    for row in rows {
        let user = user_of(row)?;
        let has_quota = match row.optional_text(1)? {
            Some(service) => state.quotas.contains_key(&(user.clone(), month, ServiceName::from_stored(service))),
            None => true,
        };
        if !has_quota || !state.balances.contains_key(&user) {
            users.insert(user);
        }
    }
    Ok(users)
}

/// Adds the rows of [`lock`]: one for each quota of an account, and one for an account without
/// quotas.
pub fn add_locked(
    state: &mut State,
    left_out: &mut LeftOut,
    month: Month,
    rows: &[MySqlRow],
) -> Result<(), StoreError> {
    let mut before: Option<UserId> = None;
    for row in rows {
        let user = user_of(row)?;
        if let Some(service) = row.optional_text(6)?
            && let Some(quota) = left_out.decoded(&user, "free_quota", quota_of(row, 7))?
        {
            state.quotas.insert((user.clone(), month, ServiceName::from_stored(service)), quota);
        }
        // The other columns are the same in all rows of a user, which are side by side.
        if before.as_ref() == Some(&user) {
            continue;
        }
        before = Some(user.clone());
        if let Some(requests) = left_out.decoded(&user, "tenant_quota", requests_of(row, 10))?.flatten() {
            state.requests.insert(user.clone(), requests);
        }
        if let Some(watch) = left_out.decoded(&user, "user_balance", watch_of(row, 18))?
            && !watch.is_default()
        {
            state.watches.insert(user.clone(), watch);
        }
        if let Some(balance) = left_out.decoded(&user, "user_balance", balance_of(row, 1))? {
            state.balances.insert(user, balance);
        }
    }
    Ok(())
}

/// Reads the quotas that reservations hold, which belong to the months of the reserves.
pub fn read_held_quotas(statement: &mut Statement, keys: &Keys<'_>) {
    statement
        .push("SELECT q.user_id, q.reset_month, q.service_name, q.total_quota, q.used_quota, q.held_quota FROM (")
        .push(WITH_ARCHIVE)
        .push(
            ") JOIN free_quota q ON q.user_id = t.user_id \
             AND q.reset_month = DATE_FORMAT(COALESCE(a.usage_date, t.usage_date), '%Y-%m') \
             AND q.service_name = COALESCE(a.service_name, t.service_name) WHERE (t.user_id, t.trace_id) IN (",
        )
        .pairs(&keys.ending)
        .push("); ");
}

/// Reads these quotas, in the columns of [`read_held_quotas`].
pub fn read_quotas(statement: &mut Statement, quotas: &BTreeSet<QuotaKey>) {
    for (user, month, service) in quotas {
        statement
            .push(
                "SELECT user_id, reset_month, service_name, total_quota, used_quota, held_quota FROM free_quota \
                 WHERE user_id = ",
            )
            .texts([user.as_str()])
            .push(" AND reset_month = ")
            .texts([month.to_string().as_str()])
            .push(" AND service_name = ")
            .texts([service.as_str()])
            .push("; ");
    }
}

/// Adds the rows of [`read_held_quotas`] or [`read_quotas`].
pub fn add_held_quotas(state: &mut State, left_out: &mut LeftOut, rows: &[MySqlRow]) -> Result<(), StoreError> {
    for row in rows {
        let user = user_of(row)?;
        if let Some((month, service, quota)) = left_out.decoded(&user, "free_quota", held_quota_of(row))? {
            state.quotas.insert((user, month, service), quota);
        }
    }
    Ok(())
}

fn held_quota_of(row: &MySqlRow) -> Result<(Month, ServiceName, Quota), StoreError> {
    let month = row.text(1)?.parse().map_err(|_| corrupt("month"))?;
    Ok((month, ServiceName::from_stored(row.text(2)?), quota_of(row, 3)?))
}

/// Updates many rows to different values in one statement. The rows exist and are locked, so
/// nothing is inserted.
pub fn set_balances(statement: &mut Statement, balances: &[(UserId, Balance)]) {
    insert_balances(statement, balances)
        .push(" ON DUPLICATE KEY UPDATE balance = VALUES(balance), held = VALUES(held), version = VALUES(version); ");
}

fn insert_balances<'s>(statement: &'s mut Statement, balances: &[(UserId, Balance)]) -> &'s mut Statement {
    statement.push("INSERT INTO user_balance (user_id, balance, held, version) VALUES ").rows(
        balances,
        |row, (user, balance)| {
            row.text(user.as_str()).money(balance.amount).money(balance.held).number(balance.version);
        },
    )
}

/// As [`set_balances`], where no row is locked yet: part of a compound statement, which it ends with an error
/// of [`STALE`] unless each row exists and has the version before the new one.
pub fn set_unchanged_balances(statement: &mut Statement, balances: &[(UserId, Balance)]) {
    let updated_rows = 2 * balances.len() as u64;
    insert_balances(statement, balances)
        .push(
            " ON DUPLICATE KEY UPDATE balance = IF(version = VALUES(version) - 1, VALUES(balance), balance), \
             held = IF(version = VALUES(version) - 1, VALUES(held), held), \
             version = IF(version = VALUES(version) - 1, VALUES(version), version); IF ROW_COUNT() <> ",
        )
        // The driver counts matched rows: one for an inserted row and one for a row that stays as it was.
        .number(updated_rows)
        .push(STALE);
}

/// As [`set_balances`].
pub fn set_statuses(statement: &mut Statement, statuses: &[(UserId, AccountStatus)]) {
    statement
        .push("INSERT INTO user_balance (user_id, status) VALUES ")
        .rows(statuses, |row, (user, status)| {
            row.text(user.as_str()).number(account_status_number(*status));
        })
        .push(" ON DUPLICATE KEY UPDATE status = VALUES(status); ");
}

/// As [`set_balances`].
pub fn set_watches(statement: &mut Statement, watches: &[(UserId, Watch)]) {
    statement
        .push("INSERT INTO user_balance (user_id, exhausted_month, alerts) VALUES ")
        .rows(watches, |row, (user, watch)| {
            let exhausted = watch.exhausted.map(|month| month.to_string());
            row.text(user.as_str()).optional(exhausted.as_deref(), Row::text);
            row.optional(watch.stored_alerts().as_deref(), Row::text);
        })
        .push(" ON DUPLICATE KEY UPDATE exhausted_month = VALUES(exhausted_month), alerts = VALUES(alerts); ");
}

/// As [`set_balances`]. The unused quotas of later months get the free units of the plan.
pub fn set_plans(statement: &mut Statement, plans: &[NewPlan], month: Month) {
    statement
        .push("INSERT INTO user_balance (user_id, plan) VALUES ")
        .rows(plans, |row, NewPlan { user, plan, .. }| {
            row.text(user.as_str()).optional(plan.as_ref().map(PlanName::as_str), Row::text);
        })
        .push(" ON DUPLICATE KEY UPDATE plan = VALUES(plan); ");
    for NewPlan { user, free_quotas, .. } in plans {
        for (service, free_quota) in free_quotas {
            statement.push("UPDATE free_quota SET total_quota = ").number(*free_quota);
            statement.push(" WHERE user_id = ").texts([user.as_str()]);
            statement.push(" AND reset_month > ").texts([month.to_string().as_str()]);
            statement.push(" AND service_name = ").texts([service.as_str()]);
            statement.push(" AND used_quota = 0 AND held_quota = 0; ");
        }
    }
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
