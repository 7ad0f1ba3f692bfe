//! Quotas of API keys: rows of `api_key_quota`.

use async_trait::async_trait;
use sqlx::{Row, mysql::MySqlRow};

use crate::{
    biz::{
        limits::key_quota::{KeyQuota, KeyQuotaStore, KeyQuotas, NewKeyQuota, QuotaType},
        settlement::keys::Keys,
        values::{calendar::BillingTime, error::StoreError, ids::ApiKeyId},
    },
    data::{
        error::{corrupt, store_error},
        mysql::{MySqlStore, row::text, statement::Statement},
    },
};

#[async_trait]
impl KeyQuotaStore for MySqlStore {
    async fn set_key_quota(&self, quota: &NewKeyQuota, at: BillingTime) -> Result<(), StoreError> {
        let statement = match quota.limit {
            Some(limit) => {
                let mut upsert = Statement::new(
                    "INSERT INTO api_key_quota \
                     (api_key_id, quota_type, period, quota_limit, usage_date, created_at, updated_at) VALUES ",
                );
                upsert
                    .rows([quota], |row, quota| {
                        row.text(quota.key.as_str()).text(quota.kind.name()).text(quota.period.name()).number(limit);
                        row.day(at.day).instant(at.utc).instant(at.utc);
                    })
                    .push(
                        " ON DUPLICATE KEY UPDATE period = VALUES(period), quota_limit = VALUES(quota_limit), \
                         version = version + 1, updated_at = VALUES(updated_at)",
                    );
                upsert
            }
            None => {
                let mut delete = Statement::new("DELETE FROM api_key_quota WHERE api_key_id = ");
                delete.texts([quota.key.as_str()]).push(" AND quota_type = ").texts([quota.kind.name()]);
                delete
            }
        };
        self.reader.run(statement).await
    }

    async fn key_quotas(&self, key: &ApiKeyId) -> Result<KeyQuotas, StoreError> {
        let query = sqlx::query(
            "SELECT api_key_id, quota_type, period, quota_limit, used, usage_date, created_at, version FROM api_key_quota \
             WHERE api_key_id = ?",
        )
        .bind(key.as_str().as_bytes());
        let mut quotas = KeyQuotas::new();
        add(&mut quotas, &self.reader.fetch_all(query).await?)?;
        Ok(quotas)
    }
}

/// Locks the quotas of the keys that the batch's calls are made with. Accounts are locked
/// before them, so that no two batches wait for each other.
pub fn lock(statement: &mut Statement, keys: &Keys<'_>) {
    statement
        .push(
            "SELECT api_key_id, quota_type, period, quota_limit, used, usage_date, created_at, version FROM api_key_quota \
             WHERE api_key_id IN (",
        )
        .texts(keys.api_keys.iter().map(|key| key.as_str()))
        .push(") ORDER BY api_key_id, quota_type FOR UPDATE; ");
}

/// As [`lock`], of the keys that reservations were made with which end.
pub fn lock_of_ending(statement: &mut Statement, keys: &Keys<'_>) {
    statement
        .push(
            "SELECT k.api_key_id, k.quota_type, k.period, k.quota_limit, k.used, k.usage_date, k.created_at, k.version \
             FROM billing_transaction t STRAIGHT_JOIN api_key_quota k ON k.api_key_id = t.api_key_id \
             WHERE (t.user_id, t.trace_id) IN (",
        )
        .pairs(&keys.ending)
        .push(") ORDER BY k.api_key_id, k.quota_type FOR UPDATE; ");
}

/// The rows of [`lock`] and of [`lock_of_ending`].
pub fn add(quotas: &mut KeyQuotas, rows: &[MySqlRow]) -> Result<(), StoreError> {
    for row in rows {
        let kind: QuotaType = text(row, 1)?.parse().map_err(|_| corrupt("quota type"))?;
        let quota = KeyQuota {
            period: text(row, 2)?.parse().map_err(|_| corrupt("period"))?,
            limit: row.try_get(3).map_err(store_error)?,
            used: row.try_get(4).map_err(store_error)?,
            day: row.try_get(5).map_err(store_error)?,
            since: row.try_get(6).map_err(store_error)?,
            version: row.try_get(7).map_err(store_error)?,
        };
        quotas.insert((ApiKeyId::from_stored(text(row, 0)?), kind), quota);
    }
    Ok(())
}

/// The rows are there, and locked.
pub fn set_used(statement: &mut Statement, quotas: &KeyQuotas, at: BillingTime) {
    statement
        .push(
            "INSERT INTO api_key_quota \
             (api_key_id, quota_type, period, quota_limit, used, usage_date, created_at, updated_at) VALUES ",
        )
        .rows(quotas, |row, ((key, kind), quota)| {
            row.text(key.as_str()).text(kind.name()).text(quota.period.name()).number(quota.limit).number(quota.used);
            row.day(quota.day).instant(at.utc).instant(at.utc);
        })
        .push(
            " ON DUPLICATE KEY UPDATE used = VALUES(used), usage_date = VALUES(usage_date), version = version + 1, \
             updated_at = VALUES(updated_at); ",
        );
}
