//! Quotas of API keys, in the table `api_key_quota`.

use async_trait::async_trait;

use crate::{
    biz::{
        limits::key_quota::{KeyQuotaStore, KeyQuotas, NewKeyQuota},
        settlement::keys::Keys,
        values::{calendar::BillingTime, error::StoreError, ids::ApiKeyId},
    },
    data::{
        mysql::{MySqlStore, statement::Statement},
        rows::key_quota,
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
        let mut connection = self.reader.take().await?;
        statement.execute(&mut connection).await?;
        connection.give_back();
        Ok(())
    }

    async fn key_quotas(&self, key: &ApiKeyId) -> Result<KeyQuotas, StoreError> {
        let query = sqlx::query(
            "SELECT api_key_id, quota_type, period, quota_limit, used, usage_date, created_at, version FROM api_key_quota \
             WHERE api_key_id = ?",
        )
        .bind(key.as_str().as_bytes());
        let mut quotas = KeyQuotas::new();
        self.reader.fetch_all(query).await?.iter().try_for_each(|row| key_quota::add(&mut quotas, row))?;
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

/// Updates the used amounts. The rows exist and are locked.
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
