//! Quotas of API keys, in the table `api_key_quota`.

use std::collections::BTreeMap;

use async_trait::async_trait;
use rusqlite::{Connection, Statement, Transaction, TransactionBehavior, params};

use crate::{
    biz::{
        audit_trail::AuditedCall,
        limits::key_quota::{KeyQuotaStore, KeyQuotas, KnownSince, NewKeyQuota, QuotaType, Taken},
        settlement::{lock::LeftOut, posting::Batch, rule::State},
        values::{
            calendar::BillingTime,
            error::{self, StoreError},
            ids::ApiKeyId,
        },
    },
    data::{
        error::store_error,
        rows::key_quota,
        sqlite::{
            SqliteStore, audit_trail,
            writer::{commit, found, writer_error},
        },
    },
};

/// The quotas of a key, in the columns of [`key_quota::add`].
const OF_KEY: &str = "\
    SELECT api_key_id, quota_type, period, quota_limit, used, usage_date, created_at, version, used_day, used_month, \
    used_total, fired FROM api_key_quota WHERE api_key_id = ?";

#[async_trait]
impl KeyQuotaStore for SqliteStore {
    async fn set_key_quota(
        &self,
        quota: &NewKeyQuota,
        call: &AuditedCall,
        at: BillingTime,
    ) -> Result<error::Result<()>, StoreError> {
        let (quota, call) = (quota.clone(), call.clone());
        self.writer.run(move |connection| set(connection, &quota, &call, at)).await
    }

    async fn key_quotas(&self, key: &ApiKeyId) -> Result<KeyQuotas, StoreError> {
        let rows = sqlx::query(OF_KEY).bind(key.as_str()).fetch_all(&self.reader).await.map_err(store_error)?;
        let mut quotas = KeyQuotas::new();
        rows.iter().try_for_each(|row| key_quota::add(&mut quotas, row))?;
        Ok(quotas)
    }

    async fn known_since(&self, key: &ApiKeyId) -> Result<BTreeMap<QuotaType, KnownSince>, StoreError> {
        let query = sqlx::query(
            "SELECT quota_type, COALESCE(day_since, created_at), COALESCE(month_since, created_at), \
             COALESCE(total_since, created_at) FROM api_key_quota WHERE api_key_id = ?",
        );
        let rows = query.bind(key.as_str()).fetch_all(&self.reader).await.map_err(store_error)?;
        rows.iter().map(key_quota::known_since_of).collect()
    }
}

fn set(
    connection: &mut Connection,
    quota: &NewKeyQuota,
    call: &AuditedCall,
    at: BillingTime,
) -> Result<error::Result<()>, StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(writer_error)?;
    let (key, kind, now) = (quota.key.as_str(), quota.kind.name(), at.utc.timestamp_micros());
    let stored = {
        let mut find = transaction
            .prepare_cached("SELECT period, quota_limit FROM api_key_quota WHERE api_key_id = ? AND quota_type = ?")
            .map_err(writer_error)?;
        found(&mut find, [key, kind], |row| key_quota::period_and_limit_of(row))?
    };
    let event = match quota.audited(call, stored, at) {
        Ok(Some(event)) => event,
        Ok(None) => return Ok(Ok(())),
        Err(refused) => return Ok(Err(refused)),
    };
    let written = match quota.limit {
        Some(limit) => transaction.execute(
            "INSERT INTO api_key_quota \
             (api_key_id, quota_type, period, quota_limit, usage_date, created_at, updated_at) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6) ON CONFLICT DO UPDATE SET \
             used = CASE excluded.period WHEN period THEN used WHEN 'day' THEN used_day \
             WHEN 'month' THEN used_month ELSE used_total END, period = excluded.period, \
             quota_limit = excluded.quota_limit, fired = 0, version = version + 1, updated_at = excluded.updated_at",
            params![key, kind, quota.period.name(), limit, at.day.to_string(), now],
        ),
        None => {
            transaction.execute("DELETE FROM api_key_quota WHERE api_key_id = ? AND quota_type = ?", params![key, kind])
        }
    };
    written.map_err(writer_error)?;
    audit_trail::insert(&transaction, &[event]).map_err(writer_error)?;
    commit(transaction).map(Ok)
}

/// Loads the quotas of the API keys of the batch. The ending transactions are already loaded.
pub fn load(
    transaction: &Transaction<'_>,
    batch: &Batch,
    (state, left_out): (&mut State, &mut LeftOut),
) -> Result<(), StoreError> {
    let mut find = transaction.prepare_cached(OF_KEY).map_err(writer_error)?;
    let mut known: BTreeMap<ApiKeyId, Result<(), StoreError>> = BTreeMap::new();
    for posting in &batch.postings {
        let Some(key) = state.api_key_of(posting).cloned() else { continue };
        let loaded = match known.get(&key) {
            Some(loaded) => loaded.clone(),
            None => load_key(&mut find, &key, &mut state.key_quotas),
        };
        left_out.decoded(posting.user(), "api_key_quota", loaded.clone())?;
        known.insert(key, loaded);
    }
    Ok(())
}

fn load_key(find: &mut Statement<'_>, key: &ApiKeyId, quotas: &mut KeyQuotas) -> Result<(), StoreError> {
    let mut rows = find.query([key.as_str()]).map_err(writer_error)?;
    while let Some(row) = rows.next().map_err(writer_error)? {
        key_quota::add(quotas, row)?;
    }
    Ok(())
}

pub fn set_used(transaction: &Transaction<'_>, quotas: &KeyQuotas, at: BillingTime) -> rusqlite::Result<()> {
    let mut update = transaction.prepare_cached(
        "UPDATE api_key_quota SET used = ?, used_day = ?, used_month = ?, used_total = ?, fired = ?, usage_date = ?, \
         version = version + 1, updated_at = ? WHERE api_key_id = ? AND quota_type = ?",
    )?;
    let now = at.utc.timestamp_micros();
    for ((key, kind), quota) in quotas {
        let (used, Taken { day, month, total }) = (quota.taken.of(quota.period), quota.taken);
        let (last, fired) = (quota.day.to_string(), quota.fired);
        update.execute(params![used, day, month, total, fired, last, now, key.as_str(), kind.name()])?;
    }
    Ok(())
}
