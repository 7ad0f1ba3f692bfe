//! The books of many users, read in one snapshot.

use std::collections::BTreeMap;

use async_trait::async_trait;
use sqlx::{Row, Sqlite, Transaction, sqlite::SqliteRow};

use super::rollup::differing_days;
use crate::{
    biz::{
        jobs::audit::{AuditStore, Evidence, MAX_DAYS},
        values::{
            error::StoreError,
            ids::{ServiceName, UserId},
        },
    },
    data::{
        error::store_error,
        sqlite::{
            SqliteStore,
            row::{money, number, text},
        },
    },
};

#[async_trait]
impl AuditStore for SqliteStore {
    async fn evidence(&self, after: Option<&UserId>, limit: u32) -> Result<Vec<Evidence>, StoreError> {
        // A read transaction of a write-ahead log sees one moment.
        let mut snapshot = self.reader.begin().await.map_err(store_error)?;
        let evidence = read(&mut snapshot, after, limit).await?;
        snapshot.rollback().await.map_err(store_error)?;
        Ok(evidence)
    }
}

/// Every user that any book knows, also those without an account.
const USERS: &str = "\
    SELECT user_id FROM user_balance WHERE user_id > ?1 UNION \
    SELECT user_id FROM free_quota WHERE user_id > ?1 UNION \
    SELECT user_id FROM billing_record WHERE user_id > ?1 UNION \
    SELECT user_id FROM billing_record_archive WHERE user_id > ?1 UNION \
    SELECT user_id FROM billing_transaction WHERE user_id > ?1 UNION \
    SELECT user_id FROM usage_daily WHERE user_id > ?1 UNION \
    SELECT user_id FROM balance_adjustment WHERE user_id > ?1 UNION \
    SELECT user_id FROM quota_opening WHERE user_id > ?1 UNION \
    SELECT user_id FROM recharge_order WHERE status = 'success' AND user_id > ?1 \
    ORDER BY user_id LIMIT ?2";

async fn read(
    snapshot: &mut Transaction<'_, Sqlite>,
    after: Option<&UserId>,
    limit: u32,
) -> Result<Vec<Evidence>, StoreError> {
    let rows = sqlx::query(USERS)
        .bind(after.map_or("", UserId::as_str))
        .bind(limit)
        .fetch_all(&mut **snapshot)
        .await
        .map_err(store_error)?;
    let mut all = BTreeMap::new();
    for row in &rows {
        let user = UserId::from_stored(text(row, 0)?);
        all.insert(user.clone(), Evidence::of(user));
    }
    let (Some(first), Some(last)) = (all.keys().next().cloned(), all.keys().next_back().cloned()) else {
        return Ok(Vec::new());
    };

    for (sql, note) in BOOKS {
        let rows = sqlx::query(*sql)
            .bind(first.as_str())
            .bind(last.as_str())
            .fetch_all(&mut **snapshot)
            .await
            .map_err(store_error)?;
        for row in &rows {
            if let Some(evidence) = all.get_mut(&UserId::from_stored(text(row, 0)?)) {
                note(evidence, row)?;
            }
        }
    }
    for (user, day) in differing_days(snapshot, &first, &last, MAX_DAYS).await? {
        if let Some(evidence) = all.get_mut(&user) {
            evidence.differing_days.push(day);
        }
    }
    Ok(all.into_values().collect())
}

type Note = fn(&mut Evidence, &SqliteRow) -> Result<(), StoreError>;

/// What a table of records says of each month, and how much of it belongs to transactions.
macro_rules! records_of {
    ($table:literal) => {
        concat!(
            "SELECT user_id, service_name, substr(usage_date, 1, 7) AS month, SUM(iif(type = 1, count, 0)), SUM(amount), \
             SUM(iif(trace_id IS NULL, 0, count)), SUM(iif(trace_id IS NULL, 0, amount)) FROM ",
            $table,
            " WHERE user_id BETWEEN ? AND ? GROUP BY user_id, service_name, month"
        )
    };
}

/// What each book says about the users from one to another, and where it is noted.
const BOOKS: &[(&str, Note)] = &[
    ("SELECT user_id, balance, held FROM user_balance WHERE user_id BETWEEN ? AND ?", |evidence, row| {
        evidence.balance = Some(money(row, 1)?);
        evidence.held = money(row, 2)?;
        Ok(())
    }),
    (
        "SELECT user_id, SUM(amount) FROM recharge_order \
         WHERE status = 'success' AND user_id BETWEEN ? AND ? GROUP BY user_id",
        |evidence, row| {
            evidence.recharged = money(row, 1)?;
            Ok(())
        },
    ),
    (
        "SELECT user_id, SUM(amount) FROM balance_adjustment WHERE user_id BETWEEN ? AND ? GROUP BY user_id",
        |evidence, row| {
            evidence.adjusted = money(row, 1)?;
            Ok(())
        },
    ),
    (
        "SELECT user_id, SUM(amount), SUM(free_count + paid_count) FROM billing_transaction \
         WHERE status = 'COMMITTED' AND user_id BETWEEN ? AND ? GROUP BY user_id",
        |evidence, row| {
            evidence.settled_amount = money(row, 1)?;
            evidence.settled_count = number(row, 2)?;
            Ok(())
        },
    ),
    (
        "SELECT user_id, service_name, reset_month, used_quota FROM free_quota \
         WHERE used_quota <> 0 AND user_id BETWEEN ? AND ?",
        |evidence, row| {
            let key = (ServiceName::from_stored(text(row, 1)?), text(row, 2)?);
            evidence.used_quotas.insert(key, number(row, 3)?);
            Ok(())
        },
    ),
    (
        "SELECT user_id, service_name, reset_month, units FROM quota_opening WHERE user_id BETWEEN ? AND ?",
        |evidence, row| {
            let key = (ServiceName::from_stored(text(row, 1)?), text(row, 2)?);
            evidence.opened_quotas.insert(key, row.try_get(3).map_err(store_error)?);
            Ok(())
        },
    ),
    (
        "SELECT user_id, service_name, reset_month, held_quota FROM free_quota \
         WHERE held_quota <> 0 AND user_id BETWEEN ? AND ?",
        |evidence, row| {
            let key = (ServiceName::from_stored(text(row, 1)?), text(row, 2)?);
            evidence.held_quotas.insert(key, number(row, 3)?);
            Ok(())
        },
    ),
    (
        "SELECT user_id, service_name, substr(usage_date, 1, 7) AS month, SUM(held_free), SUM(held_amount) \
         FROM billing_transaction WHERE status = 'PENDING' AND user_id BETWEEN ? AND ? \
         GROUP BY user_id, service_name, month",
        note_reservations,
    ),
    (records_of!("billing_record"), note_records),
    (records_of!("billing_record_archive"), note_records),
];

fn note_reservations(evidence: &mut Evidence, row: &SqliteRow) -> Result<(), StoreError> {
    let free = number(row, 3)?;
    if free > 0 {
        evidence.reserved_quotas.insert((ServiceName::from_stored(text(row, 1)?), text(row, 2)?), free);
    }
    evidence.reserved = evidence.reserved.plus(money(row, 4)?);
    Ok(())
}

fn note_records(evidence: &mut Evidence, row: &SqliteRow) -> Result<(), StoreError> {
    let free: i64 = number(row, 3)?;
    if free != 0 {
        let month = (ServiceName::from_stored(text(row, 1)?), text(row, 2)?);
        *evidence.free_units.entry(month).or_default() += free;
    }
    evidence.charged = evidence.charged.plus(money(row, 4)?);
    evidence.recorded_count += number::<i64>(row, 5)?;
    evidence.recorded_amount = evidence.recorded_amount.plus(money(row, 6)?);
    Ok(())
}
