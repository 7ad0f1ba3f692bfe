//! Accounts: one row of `user_balance`, and a row of `free_quota` per service and month.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use rusqlite::{Transaction, params};
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
        error::{corrupt, store_error},
        row::Columns,
        rows::account::{account_of, balance_of, change_of, quota_of, watch_of},
        sqlite::{
            SqliteStore, audit_trail,
            writer::{found, writer_error},
        },
    },
};

#[async_trait]
impl AccountStore for SqliteStore {
    async fn account(&self, user: &UserId, month: Month) -> Result<Option<Account>, StoreError> {
        let rows = sqlx::query(
            "SELECT b.balance, b.held, b.version, b.status, b.plan, q.service_name, q.total_quota, q.used_quota, q.held_quota, \
             l.usage_date, l.daily_limit, l.monthly_limit, l.daily_used, l.monthly_used, l.created_at, \
             l.fired_daily, l.fired_monthly, b.exhausted_month, b.alerts \
             FROM user_balance b LEFT JOIN tenant_quota l ON l.user_id = b.user_id \
             LEFT JOIN free_quota q ON q.user_id = b.user_id AND q.reset_month = ? \
             WHERE b.user_id = ?",
        )
        .bind(month.to_string())
        .bind(user.as_str())
        .fetch_all(&self.reader)
        .await
        .map_err(store_error)?;
        account_of(&rows)
    }

    async fn active_users(&self, since: DateTime<Utc>, after: Option<&UserId>) -> Result<ActiveUsers, StoreError> {
        let rows =
            sqlx::query("SELECT user_id, updated_at FROM user_balance WHERE user_id > ? ORDER BY user_id LIMIT ?")
                .bind(after.map_or("", |user| user.as_str()))
                .bind(ACTIVE_PAGE as i64)
                .fetch_all(&self.reader)
                .await
                .map_err(store_error)?;
        let changes: Result<_, StoreError> = rows.iter().map(change_of).collect();
        Ok(ActiveUsers::of_page(changes?, since))
    }
}

/// Accounts to open.
pub struct NewAccounts<'n> {
    pub users: &'n BTreeSet<UserId>,
    /// The plans of some of them that have an account.
    pub plans: &'n BTreeMap<UserId, PlanName>,
    /// The events of some of them, each to be written with the row of its account.
    pub events: &'n BTreeMap<UserId, AuditEvent>,
    pub at: BillingTime,
}

/// Creates the missing rows of accounts, and writes the events of new ones. The writer's transaction
/// excludes other writers.
pub fn insert_missing(
    transaction: &Transaction<'_>,
    NewAccounts { users, plans, events, at }: NewAccounts<'_>,
    catalog: &Catalog,
) -> rusqlite::Result<()> {
    let mut balance = transaction.prepare_cached(
        "INSERT INTO user_balance (user_balance_id, user_id, balance, version, created_at, updated_at) \
         VALUES (?1, ?2, 0, 0, ?3, ?3) ON CONFLICT DO NOTHING",
    )?;
    let mut quota = transaction.prepare_cached(
        "INSERT INTO free_quota \
         (free_quota_id, user_id, service_name, total_quota, used_quota, reset_month, created_at, updated_at) \
         VALUES (?1, ?2, ?3, ?4, 0, ?5, ?6, ?6) ON CONFLICT DO NOTHING",
    )?;
    let (now, month) = (at.utc.timestamp_micros(), at.month.to_string());
    for user in users {
        let is_new = balance.execute(params![Uuid::now_v7().to_string(), user.as_str(), now])? == 1;
        if let Some(event) = events.get(user).filter(|_| is_new) {
            audit_trail::insert(transaction, std::slice::from_ref(event))?;
        }
        for (service, terms) in catalog.services_in(plans.get(user).copied()) {
            let id = Uuid::now_v7().to_string();
            quota.execute(params![id, user.as_str(), service.as_str(), terms.free_quota, month, now])?;
        }
    }
    Ok(())
}

/// The balance row of a user.
pub fn balance(transaction: &Transaction<'_>, user: &UserId) -> Result<Option<(Balance, Watch)>, StoreError> {
    let mut find = transaction
        .prepare_cached(
            "SELECT balance, held, version, status, plan, exhausted_month, alerts FROM user_balance WHERE user_id = ?",
        )
        .map_err(writer_error)?;
    found(&mut find, [user.as_str()], |row| Ok((balance_of(row, 0)?, watch_of(row, 5)?)))
}

const ONE_QUOTA: &str = "\
    SELECT total_quota, used_quota, held_quota FROM free_quota \
    WHERE user_id = ? AND reset_month = ? AND service_name = ?";

/// Loads the balances of the batch and the quotas that it needs.
pub fn load_accounts(
    transaction: &Transaction<'_>,
    keys: &Keys<'_>,
    month: Month,
    (state, left_out): (&mut State, &mut LeftOut),
) -> Result<(), StoreError> {
    for &user in &keys.users {
        let balance = balance(transaction, user);
        if let Some((balance, watch)) = left_out.decoded(user, "user_balance", balance)?.flatten() {
            if !watch.is_default() {
                state.watches.insert(user.clone(), watch);
            }
            state.balances.insert(user.clone(), balance);
        }
    }
    let mut find = transaction.prepare_cached(ONE_QUOTA).map_err(writer_error)?;
    let stored_month = month.to_string();
    for &(user, service) in &keys.quotas {
        let key = [user.as_str(), &stored_month, service.as_str()];
        let quota = found(&mut find, key, |row| quota_of(row, 0));
        if let Some(quota) = left_out.decoded(user, "free_quota", quota)?.flatten() {
            state.quotas.insert((user.clone(), month, service.clone()), quota);
        }
    }
    // A reservation holds the quota of the month of its reserve.
    let mut find = transaction
        .prepare_cached(
            "SELECT q.total_quota, q.used_quota, q.held_quota, q.reset_month, q.service_name \
             FROM settled_transaction t CROSS JOIN free_quota q ON q.user_id = t.user_id \
             AND q.reset_month = substr(t.usage_date, 1, 7) AND q.service_name = t.service_name \
             WHERE t.user_id = ? AND t.trace_id = ?",
        )
        .map_err(writer_error)?;
    for &(user, trace) in &keys.ending {
        let held = found(&mut find, [user.as_str(), trace.as_str()], |row| {
            let month = row.text(3)?.parse().map_err(|_| corrupt("month"))?;
            Ok(((user.clone(), month, ServiceName::from_stored(row.text(4)?)), quota_of(row, 0)?))
        });
        state.quotas.extend(left_out.decoded(user, "free_quota", held)?.flatten());
    }
    Ok(())
}

/// Loads these quotas, as far as they exist.
pub fn load_quotas(
    transaction: &Transaction<'_>,
    quotas: &BTreeSet<QuotaKey>,
    (state, left_out): (&mut State, &mut LeftOut),
) -> Result<(), StoreError> {
    for row in quotas {
        let mut find = transaction.prepare_cached(ONE_QUOTA).map_err(writer_error)?;
        let (user, month, service) = row;
        let key = [user.as_str(), &month.to_string(), service.as_str()];
        let quota = found(&mut find, key, |row| quota_of(row, 0));
        if let Some(quota) = left_out.decoded(user, "free_quota", quota)?.flatten() {
            state.quotas.insert(row.clone(), quota);
        }
    }
    Ok(())
}

pub fn set_balances(
    transaction: &Transaction<'_>,
    balances: &[(UserId, Balance)],
    at: BillingTime,
) -> rusqlite::Result<()> {
    let mut update = transaction.prepare_cached(
        "UPDATE user_balance SET balance = ?, held = ?, version = ?, updated_at = ? WHERE user_id = ?",
    )?;
    let now = at.utc.timestamp_micros();
    for (user, balance) in balances {
        update.execute(params![balance.amount.micros(), balance.held.micros(), balance.version, now, user.as_str()])?;
    }
    Ok(())
}

pub fn set_statuses(transaction: &Transaction<'_>, statuses: &[(UserId, AccountStatus)]) -> rusqlite::Result<()> {
    for (user, status) in statuses {
        let mut update = transaction.prepare_cached("UPDATE user_balance SET status = ? WHERE user_id = ?")?;
        update.execute(params![account_status_number(*status), user.as_str()])?;
    }
    Ok(())
}

pub fn set_watches(transaction: &Transaction<'_>, watches: &[(UserId, Watch)]) -> rusqlite::Result<()> {
    for (user, watch) in watches {
        let mut update =
            transaction.prepare_cached("UPDATE user_balance SET exhausted_month = ?, alerts = ? WHERE user_id = ?")?;
        let exhausted = watch.exhausted.map(|month| month.to_string());
        update.execute(params![exhausted, watch.stored_alerts(), user.as_str()])?;
    }
    Ok(())
}

/// The unused quotas of later months get the free units of the plan.
pub fn set_plans(transaction: &Transaction<'_>, plans: &[NewPlan], at: BillingTime) -> rusqlite::Result<()> {
    for NewPlan { user, plan, free_quotas } in plans {
        let mut update = transaction.prepare_cached("UPDATE user_balance SET plan = ? WHERE user_id = ?")?;
        update.execute(params![plan.as_ref().map(PlanName::as_str), user.as_str()])?;
        let mut total = transaction.prepare_cached(
            "UPDATE free_quota SET total_quota = ?, updated_at = ? WHERE user_id = ? AND reset_month > ? \
             AND service_name = ? AND used_quota = 0 AND held_quota = 0",
        )?;
        let (now, month) = (at.utc.timestamp_micros(), at.month.to_string());
        for (service, free_quota) in free_quotas {
            total.execute(params![free_quota, now, user.as_str(), month, service.as_str()])?;
        }
    }
    Ok(())
}

pub fn set_quotas(
    transaction: &Transaction<'_>,
    quotas: &[(QuotaKey, Quota)],
    at: BillingTime,
) -> rusqlite::Result<()> {
    let mut update = transaction.prepare_cached(
        "UPDATE free_quota SET used_quota = ?, held_quota = ?, updated_at = ? \
         WHERE user_id = ? AND reset_month = ? AND service_name = ?",
    )?;
    let now = at.utc.timestamp_micros();
    for ((user, month, service), quota) in quotas {
        update.execute(params![quota.used, quota.held, now, user.as_str(), month.to_string(), service.as_str()])?;
    }
    Ok(())
}
