//! Quotas of API keys, in the table `api_key_quota`.

use std::collections::BTreeMap;

use async_trait::async_trait;

use crate::{
    biz::{
        audit_trail::AuditedCall,
        limits::key_quota::{KeyQuota, KeyQuotaStore, KeyQuotas, KnownSince, NewKeyQuota, Period, QuotaType},
        settlement::keys::Keys,
        values::{
            calendar::BillingTime,
            error::{self, StoreError},
            ids::ApiKeyId,
        },
    },
    data::{
        mysql::{
            MySqlStore,
            settlement::transactions::WITH_ARCHIVE,
            statement::{LockMode, Statement},
        },
        rows::key_quota,
    },
};

#[async_trait]
impl KeyQuotaStore for MySqlStore {
    async fn set_key_quota(
        &self,
        quota: &NewKeyQuota,
        call: &AuditedCall,
        at: BillingTime,
    ) -> Result<error::Result<()>, StoreError> {
        let mut read = Statement::beginning(LockMode::Wait);
        read.push("SELECT period, quota_limit FROM api_key_quota");
        of_row(&mut read, quota).push(LockMode::Wait.suffix());
        self.change_audited(
            read,
            key_quota::period_and_limit_of,
            |stored| quota.audited(call, stored.copied(), at),
            |packet, stored| set(packet, quota, stored.copied(), at),
        )
        .await
    }

    async fn key_quotas(&self, key: &ApiKeyId) -> Result<KeyQuotas, StoreError> {
        let query = sqlx::query(
            "SELECT api_key_id, quota_type, period, quota_limit, used, usage_date, created_at, version, used_day, \
             used_month, used_total, fired FROM api_key_quota WHERE api_key_id = ?",
        )
        .bind(key.as_str().as_bytes());
        let mut quotas = KeyQuotas::new();
        self.reader.fetch_all(query).await?.iter().try_for_each(|row| key_quota::add(&mut quotas, row))?;
        Ok(quotas)
    }

    async fn known_since(&self, key: &ApiKeyId) -> Result<BTreeMap<QuotaType, KnownSince>, StoreError> {
        let query = sqlx::query(
            "SELECT quota_type, COALESCE(day_since, created_at), COALESCE(month_since, created_at), \
             COALESCE(total_since, created_at) FROM api_key_quota WHERE api_key_id = ?",
        )
        .bind(key.as_str().as_bytes());
        self.reader.fetch_all(query).await?.iter().map(key_quota::known_since_of).collect()
    }
}

fn of_row<'s>(statement: &'s mut Statement, quota: &NewKeyQuota) -> &'s mut Statement {
    statement.push(" WHERE api_key_id = ").texts([quota.key.as_str()]);
    statement.push(" AND quota_type = ").texts([quota.kind.name()])
}

/// Writes a quota. `stored` is its row, which is locked.
fn set(statement: &mut Statement, quota: &NewKeyQuota, stored: Option<(Period, i64)>, at: BillingTime) {
    match (quota.limit, stored) {
        (None, _) => {
            statement.push("DELETE FROM api_key_quota");
            of_row(statement, quota).push("; ");
        }
        (Some(limit), Some((period, _))) => {
            statement.push("UPDATE api_key_quota SET ");
            if period != quota.period {
                statement.push("used = ").push(match quota.period {
                    Period::Day => "used_day, ",
                    Period::Month => "used_month, ",
                    Period::Total => "used_total, ",
                });
            }
            statement.push("period = ").texts([quota.period.name()]).push(", quota_limit = ").number(limit);
            statement.push(", fired = 0, version = version + 1, updated_at = ").instant(at.utc);
            of_row(statement, quota).push("; ");
        }
        (Some(limit), None) => {
            statement
                .push(
                    "INSERT INTO api_key_quota \
                     (api_key_id, quota_type, period, quota_limit, usage_date, created_at, updated_at) VALUES ",
                )
                .rows([quota], |row, quota| {
                    row.text(quota.key.as_str()).text(quota.kind.name()).text(quota.period.name()).number(limit);
                    row.day(at.day).instant(at.utc).instant(at.utc);
                })
                .push("; ");
        }
    }
}

/// Locks the quotas of the API keys of the batch, and of the reservations that it ends, in key
/// order. So transactions that wait for several keys wait in the same order.
pub fn lock(statement: &mut Statement, keys: &Keys<'_>, mode: LockMode) {
    statement.push(
        "SELECT k.api_key_id, k.quota_type, k.period, k.quota_limit, k.used, k.usage_date, k.created_at, k.version, \
         k.used_day, k.used_month, k.used_total, k.fired",
    );
    of_batch(statement, keys);
    statement.push(mode.suffix());
}

/// Finds the quotas of the keys of [`lock`] by a plain read, which ignores locks.
pub fn read_present(statement: &mut Statement, keys: &Keys<'_>) {
    statement.push("SELECT k.api_key_id, k.quota_type");
    of_batch(statement, keys);
    statement.push("; ");
}

/// A part of a SELECT that is 1 if one of the named API keys has a quota.
pub fn push_exists(statement: &mut Statement, keys: &Keys<'_>) {
    statement
        .push("EXISTS (SELECT 1 FROM api_key_quota WHERE api_key_id IN (")
        .texts(keys.api_keys.iter().map(|key| key.as_str()))
        .push("))");
}

/// Waits until the quotas of one key are free. The transaction that begins after the statement
/// gives its locks back.
pub fn wait_for(statement: &mut Statement, key: &ApiKeyId) {
    statement
        .push("SELECT 1 FROM api_key_quota WHERE api_key_id = ")
        .texts([key.as_str()])
        .push(" ORDER BY quota_type FOR UPDATE; ");
}

/// The key of a reservation is in its transaction, which is read without a lock. The LIMIT keeps
/// the order of the list, in which the rows are then locked one by one.
fn of_batch(statement: &mut Statement, keys: &Keys<'_>) {
    if keys.ending.is_empty() {
        statement
            .push(" FROM api_key_quota k WHERE k.api_key_id IN (")
            .texts(keys.api_keys.iter().map(|key| key.as_str()))
            .push(") ORDER BY k.api_key_id, k.quota_type");
        return;
    }
    statement
        .push(" FROM (SELECT COALESCE(a.api_key_id, t.api_key_id) AS api_key_id FROM ")
        .push(WITH_ARCHIVE)
        .push(" WHERE COALESCE(a.api_key_id, t.api_key_id) IS NOT NULL AND (t.user_id, t.trace_id) IN (")
        .pairs(&keys.ending)
        .push(")");
    for key in &keys.api_keys {
        statement.push(" UNION SELECT ").texts([key.as_str()]);
    }
    let count = keys.ending.len() + keys.api_keys.len();
    statement
        .push(" ORDER BY api_key_id LIMIT ")
        .number(count as u64)
        .push(") named STRAIGHT_JOIN api_key_quota k ON k.api_key_id = named.api_key_id");
}

/// Updates the used amounts. The rows exist and are locked.
pub fn set_used(statement: &mut Statement, quotas: &KeyQuotas, at: BillingTime) {
    statement
        .push(
            "INSERT INTO api_key_quota \
             (api_key_id, quota_type, period, quota_limit, used, used_day, used_month, used_total, fired, usage_date, \
             created_at, updated_at) VALUES ",
        )
        .rows(quotas, |row, ((key, kind), quota)| {
            let KeyQuota { period, limit, taken, .. } = quota;
            row.text(key.as_str()).text(kind.name()).text(period.name()).number(*limit).number(taken.of(*period));
            row.number(taken.day).number(taken.month).number(taken.total);
            row.number(quota.fired).day(quota.day).instant(at.utc).instant(at.utc);
        })
        .push(
            " ON DUPLICATE KEY UPDATE used = VALUES(used), used_day = VALUES(used_day), \
             used_month = VALUES(used_month), used_total = VALUES(used_total), fired = VALUES(fired), \
             usage_date = VALUES(usage_date), version = version + 1, \
             updated_at = VALUES(updated_at); ",
        );
}
