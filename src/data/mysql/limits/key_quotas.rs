//! Quotas of API keys: rows of `api_key_quota`.

use std::collections::BTreeMap;

use async_trait::async_trait;
use sqlx::{Row, mysql::MySqlRow};

use crate::{
    biz::{
        limits::key_quota::{KeyQuota, KeyQuotaStore, KeyQuotas, KnownSince, NewKeyQuota, Period, QuotaType, Taken},
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
                        // From left to right: the period is still the former one where used is set.
                        " ON DUPLICATE KEY UPDATE used = CASE VALUES(period) WHEN period THEN used \
                         WHEN 'day' THEN used_day WHEN 'month' THEN used_month ELSE used_total END, \
                         period = VALUES(period), quota_limit = VALUES(quota_limit), \
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
            "SELECT api_key_id, quota_type, period, quota_limit, used, usage_date, created_at, version, used_day, used_month, used_total FROM api_key_quota \
             WHERE api_key_id = ?",
        )
        .bind(key.as_str().as_bytes());
        let mut quotas = KeyQuotas::new();
        add(&mut quotas, &self.reader.fetch_all(query).await?)?;
        Ok(quotas)
    }

    async fn known_since(&self, key: &ApiKeyId) -> Result<BTreeMap<QuotaType, KnownSince>, StoreError> {
        let query = sqlx::query(
            "SELECT quota_type, COALESCE(day_since, created_at), COALESCE(month_since, created_at), \
             COALESCE(total_since, created_at) FROM api_key_quota WHERE api_key_id = ?",
        )
        .bind(key.as_str().as_bytes());
        let rows = self.reader.fetch_all(query).await?;
        let known = |row: &MySqlRow| {
            let kind = text(row, 0)?.parse().map_err(|_| corrupt("quota type"))?;
            let since = |column| row.try_get(column).map_err(store_error);
            Ok((kind, KnownSince { day: since(1)?, month: since(2)?, total: since(3)? }))
        };
        rows.iter().map(known).collect()
    }
}

/// Locks the quotas of the keys that the batch's calls are made with. Accounts are locked
/// before them, so that no two batches wait for each other.
pub fn lock(statement: &mut Statement, keys: &Keys<'_>) {
    statement
        .push(
            "SELECT api_key_id, quota_type, period, quota_limit, used, usage_date, created_at, version, used_day, used_month, used_total FROM api_key_quota \
             WHERE api_key_id IN (",
        )
        .texts(keys.api_keys.iter().map(|key| key.as_str()))
        .push(") ORDER BY api_key_id, quota_type FOR UPDATE; ");
}

/// As [`lock`], of the keys that reservations were made with which end.
pub fn lock_of_ending(statement: &mut Statement, keys: &Keys<'_>) {
    statement
        .push(
            "SELECT k.api_key_id, k.quota_type, k.period, k.quota_limit, k.used, k.usage_date, k.created_at, k.version, \
             k.used_day, k.used_month, k.used_total \
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
        let period: Period = text(row, 2)?.parse().map_err(|_| corrupt("period"))?;
        let count = |column| row.try_get::<i64, _>(column).map_err(store_error);
        let taken = Taken { day: count(8)?, month: count(9)?, total: count(10)? };
        let quota = KeyQuota {
            period,
            limit: count(3)?,
            taken: taken.with(period, count(4)?),
            day: row.try_get(5).map_err(store_error)?,
            since: row.try_get(6).map_err(store_error)?,
            version: count(7)?,
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
             (api_key_id, quota_type, period, quota_limit, used, used_day, used_month, used_total, usage_date, \
             created_at, updated_at) VALUES ",
        )
        .rows(quotas, |row, ((key, kind), quota)| {
            let KeyQuota { period, limit, taken, .. } = quota;
            row.text(key.as_str()).text(kind.name()).text(period.name()).number(*limit).number(taken.of(*period));
            row.number(taken.day).number(taken.month).number(taken.total);
            row.day(quota.day).instant(at.utc).instant(at.utc);
        })
        .push(
            " ON DUPLICATE KEY UPDATE used = VALUES(used), used_day = VALUES(used_day), \
             used_month = VALUES(used_month), used_total = VALUES(used_total), usage_date = VALUES(usage_date), version = version + 1, \
             updated_at = VALUES(updated_at); ",
        );
}
