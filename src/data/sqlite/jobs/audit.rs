//! Reads the books of many users in one snapshot.

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, SqlSafeStr, Sqlite, Transaction, sqlite::SqliteRow};

use super::{
    rollup::differing_days,
    unreadable::{UNREADABLE, unreadable_order},
};
use crate::{
    biz::{
        jobs::audit::books::{AuditStore, Evidence, MAX_DAYS},
        values::{
            error::StoreError,
            ids::{ApiKeyId, UserId},
        },
    },
    data::{
        error::store_error,
        rows::audit::{self, Books, Further, List, Note},
        sqlite::SqliteStore,
        transaction_archive::{DISAGREEING, WITHOUT_CONTENT},
    },
};

#[async_trait]
impl AuditStore for SqliteStore {
    async fn evidence(&self, after: Option<&UserId>, limit: u32) -> Result<Vec<Evidence>, StoreError> {
        // With a write-ahead log, a read transaction sees one snapshot.
        let mut snapshot = self.reader.begin().await.map_err(store_error)?;
        let users = sqlx::query(USERS).bind(after.map_or("", UserId::as_str)).bind(limit);
        let rows = users.fetch_all(&mut *snapshot).await.map_err(store_error)?;
        let evidence = read(&mut snapshot, Books::of_users(&rows)?).await?;
        snapshot.rollback().await.map_err(store_error)?;
        Ok(evidence)
    }

    async fn evidence_of(&self, user: &UserId) -> Result<Evidence, StoreError> {
        let mut snapshot = self.reader.begin().await.map_err(store_error)?;
        let evidence = read(&mut snapshot, Books::of_list(std::slice::from_ref(user))).await?;
        snapshot.rollback().await.map_err(store_error)?;
        Ok(evidence.into_iter().next().unwrap_or_else(|| Evidence::of(user.clone())))
    }

    async fn unreadable_key_quotas(&self, limit: u32) -> Result<Vec<(ApiKeyId, String)>, StoreError> {
        let rows = sqlx::query(UNREADABLE_KEY_QUOTAS).bind(limit).fetch_all(&self.reader).await.map_err(store_error)?;
        Ok(rows.iter().map(audit::unreadable_key_quota_of).collect())
    }
}

/// The quotas of API keys that `rows::key_quota` refuses, or that are negative. The tables of orders
/// and of these quotas are STRICT: their columns have the right types.
const UNREADABLE_KEY_QUOTAS: &str = "\
    SELECT api_key_id, 'quota of ' || quota_type || ' in period ' || period || ' with limit ' || quota_limit \
    || ', used ' || used || ', version ' || version FROM api_key_quota \
    WHERE quota_type NOT IN ('requests', 'tokens', 'amount') OR period NOT IN ('day', 'month', 'total') \
    OR quota_limit < 0 OR used < 0 OR version < 0 ORDER BY api_key_id, quota_type LIMIT ?";

/// All users in any book, with or without an account.
const USERS: &str = concat!(
    "\
    SELECT user_id FROM user_balance WHERE user_id > ?1 UNION \
    SELECT user_id FROM free_quota WHERE user_id > ?1 UNION \
    SELECT user_id FROM billing_record WHERE user_id > ?1 UNION \
    SELECT user_id FROM billing_record_archive WHERE user_id > ?1 UNION \
    SELECT user_id FROM billing_transaction WHERE user_id > ?1 UNION \
    SELECT user_id FROM billing_transaction_archive WHERE user_id > ?1 UNION \
    SELECT user_id FROM usage_daily WHERE user_id > ?1 UNION \
    SELECT user_id FROM usage_by WHERE user_id > ?1 UNION \
    SELECT user_id FROM balance_adjustment WHERE user_id > ?1 UNION \
    SELECT user_id FROM quota_opening WHERE user_id > ?1 UNION \
    SELECT user_id FROM charge_refund WHERE user_id > ?1 UNION \
    SELECT user_id FROM sealed_month WHERE user_id > ?1 UNION \
    SELECT user_id FROM sealed_account WHERE user_id > ?1 UNION \
    SELECT user_id FROM recharge_order WHERE (status IN ('success', 'refunded') OR ",
    unreadable_order!(),
    ") AND user_id > ?1 \
    ORDER BY user_id LIMIT ?2"
);

async fn read(snapshot: &mut Transaction<'_, Sqlite>, mut books: Books) -> Result<Vec<Evidence>, StoreError> {
    let Some((first, last)) = books.span() else { return Ok(Vec::new()) };
    let span = (&first, &last);
    for (sql, note) in BOOKS {
        books.note(&rows(snapshot, *sql, span).await?, *note)?;
    }
    let unreadable = UNREADABLE.iter().map(|(sql, note)| (*sql, *note, audit::add_unreadable as Further));
    for (list, note, further) in unreadable.chain(LISTS.iter().copied()) {
        let first_rows = rows(snapshot, AssertSqlSafe(audit::first_rows(list)), span).await?;
        books.note(&first_rows, note)?;
        if audit::is_full(&first_rows) {
            let counts = rows(snapshot, AssertSqlSafe(audit::counted(list)), span).await?;
            books.note_further(&first_rows, &counts, further)?;
        }
    }
    books.note_days(differing_days(snapshot, &first, &last, MAX_DAYS).await?);
    Ok(books.into_evidence())
}

/// The rows of some users.
async fn rows(
    snapshot: &mut Transaction<'_, Sqlite>,
    sql: impl SqlSafeStr,
    (first, last): (&UserId, &UserId),
) -> Result<Vec<SqliteRow>, StoreError> {
    let query = sqlx::query(sql).bind(first.as_str()).bind(last.as_str());
    query.fetch_all(&mut **snapshot).await.map_err(store_error)
}

/// The sums of a table of records in each month, and the part that belongs to transactions.
macro_rules! records_of {
    ($table:literal) => {
        concat!(
            "SELECT user_id, service_name, substr(usage_date, 1, 7) AS month, \
             SUM(CASE type WHEN 1 THEN count WHEN 3 THEN -count ELSE 0 END), SUM(iif(type IN (3, 4), 0, amount)), \
             SUM(iif(trace_id IS NULL OR type IN (3, 4), 0, count)), \
             SUM(iif(trace_id IS NULL OR type IN (3, 4), 0, amount)), \
             SUM(iif(type IN (3, 4), count, 0)), SUM(iif(type IN (3, 4), amount, 0)) FROM ",
            $table,
            " WHERE user_id BETWEEN ? AND ? GROUP BY user_id, service_name, month"
        )
    };
}

/// The lists of rows of transactions that should not be, for a range of users.
const LISTS: &[List<SqliteRow>] = &[
    (
        "SELECT user_id, 'transaction ' || trace_id || ' with status ' || status || ', count ' || count || ', free ' || free_count || ', paid ' || paid_count \
         FROM settled_transaction WHERE (count < 0 OR typeof(count) NOT IN ('integer', 'null') OR free_count < 0 OR typeof(free_count) NOT IN ('integer', 'null') OR paid_count < 0 OR typeof(paid_count) NOT IN ('integer', 'null') \
         OR status NOT IN ('PENDING', 'COMMITTED', 'RELEASED', 'EXPIRED', 'ARCHIVED')) AND user_id BETWEEN ? AND ?",
        audit::note_unreadable,
        audit::add_unreadable,
    ),
    (audit::UNSETTLED, audit::note_unsettled, audit::add_unsettled),
    (WITHOUT_CONTENT, audit::note_unreadable, audit::add_unreadable),
    (DISAGREEING, audit::note_unreadable, audit::add_unreadable),
];

/// The query of each book for a range of users, and the function that notes its rows.
const BOOKS: &[(&str, Note<SqliteRow>)] = &[
    ("SELECT user_id, balance, held FROM user_balance WHERE user_id BETWEEN ? AND ?", audit::note_balance),
    (
        "SELECT user_id, SUM(amount), SUM(refunded_amount), SUM(refunding_amount) FROM recharge_order \
         WHERE status IN ('success', 'refunded') AND user_id BETWEEN ? AND ? GROUP BY user_id",
        audit::note_recharges,
    ),
    (
        "SELECT user_id, status, kind, SUM(amount) FROM recharge_refund \
         WHERE status <> 'failed' AND user_id BETWEEN ? AND ? GROUP BY user_id, status, kind",
        audit::note_order_refunds,
    ),
    (
        "SELECT user_id, SUM(amount) FROM balance_adjustment WHERE user_id BETWEEN ? AND ? GROUP BY user_id",
        audit::note_adjustments,
    ),
    (
        "SELECT user_id, SUM(amount), SUM(free_count + paid_count), SUM(refunded_amount), \
         COALESCE(SUM(refunded_free + refunded_paid), 0) FROM settled_transaction \
         WHERE status = 'COMMITTED' AND user_id BETWEEN ? AND ? GROUP BY user_id",
        audit::note_transactions,
    ),
    (
        "SELECT user_id, SUM(amount), SUM(free_count + lapsed_count + paid_count), SUM(free_count + paid_count) \
         FROM charge_refund WHERE user_id BETWEEN ? AND ? GROUP BY user_id",
        audit::note_refunds,
    ),
    (audit::WRONG_CHARGES, audit::note_wrong_charges),
    (
        "SELECT user_id, service_name, reset_month, used_quota FROM free_quota \
         WHERE used_quota <> 0 AND user_id BETWEEN ? AND ?",
        audit::note_used_quota,
    ),
    (
        "SELECT user_id, service_name, reset_month, units FROM quota_opening WHERE user_id BETWEEN ? AND ?",
        audit::note_opened_quota,
    ),
    (
        "SELECT user_id, service_name, reset_month, held_quota FROM free_quota \
         WHERE held_quota <> 0 AND user_id BETWEEN ? AND ?",
        audit::note_held_quota,
    ),
    (
        "SELECT user_id, service_name, substr(usage_date, 1, 7) AS month, SUM(held_free), SUM(held_amount) \
         FROM billing_transaction WHERE status = 'PENDING' AND user_id BETWEEN ? AND ? \
         GROUP BY user_id, service_name, month",
        audit::note_reservations,
    ),
    (records_of!("billing_record"), audit::note_records),
    (records_of!("billing_record_archive"), audit::note_records),
];
