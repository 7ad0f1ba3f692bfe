//! Reads the books of many users in one snapshot.

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, MySqlConnection, SqlSafeStr, mysql::MySqlRow};

use super::{
    rollup::differing_days,
    scope::end,
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
        mysql::{
            MySqlStore,
            connections::Lease,
            statement::{OnNode, Statement},
        },
        rows::audit::{self, Books, Further, List, Note},
        transaction_archive::{DISAGREEING, WITHOUT_CONTENT},
    },
};

#[async_trait]
impl AuditStore for MySqlStore {
    async fn evidence(&self, after: Option<&UserId>, limit: u32) -> Result<Vec<Evidence>, StoreError> {
        let mut lease = self.snapshot().await?;
        let after = after.map_or("", UserId::as_str);
        let mut users = sqlx::query(USERS);
        for _ in 0..USER_TABLES {
            users = users.bind(after).bind(limit);
        }
        let rows = users.bind(limit).fetch_all(connection(&mut lease)).await.map_err(store_error)?;
        let evidence = read(&mut lease, Books::of_users(&rows)?).await?;
        end(lease).await?;
        Ok(evidence)
    }

    async fn evidence_of(&self, user: &UserId) -> Result<Evidence, StoreError> {
        let mut lease = self.snapshot().await?;
        let evidence = read(&mut lease, Books::of_list(std::slice::from_ref(user))).await?;
        end(lease).await?;
        Ok(evidence.into_iter().next().unwrap_or_else(|| Evidence::of(user.clone())))
    }

    async fn unreadable_key_quotas(&self, limit: u32) -> Result<Vec<(ApiKeyId, String)>, StoreError> {
        let rows = self.reader.fetch_all(sqlx::query(UNREADABLE_KEY_QUOTAS).bind(limit)).await?;
        Ok(rows.iter().map(audit::unreadable_key_quota_of).collect())
    }
}

/// The quotas of API keys that `rows::key_quota` refuses, or that are negative. The comparison of
/// bytes sees case and trailing spaces.
const UNREADABLE_KEY_QUOTAS: &str = "\
    SELECT api_key_id, CONCAT('quota of ', quota_type, ' in period ', period, ' with limit ', quota_limit, \
    ', used ', used, ', version ', version) FROM api_key_quota \
    WHERE CAST(quota_type AS BINARY) NOT IN ('requests', 'tokens', 'amount') \
    OR CAST(period AS BINARY) NOT IN ('day', 'month', 'total') OR quota_limit < 0 OR used < 0 OR version < 0 \
    ORDER BY api_key_id, quota_type LIMIT ?";

/// All users in any book, with or without an account.
const USERS: &str = concat!(
    "\
    (SELECT user_id FROM user_balance WHERE user_id > ? ORDER BY user_id LIMIT ?) UNION \
    (SELECT DISTINCT user_id FROM free_quota WHERE user_id > ? ORDER BY user_id LIMIT ?) UNION \
    (SELECT DISTINCT user_id FROM billing_record WHERE user_id > ? ORDER BY user_id LIMIT ?) UNION \
    (SELECT DISTINCT user_id FROM billing_record_archive WHERE user_id > ? ORDER BY user_id LIMIT ?) UNION \
    (SELECT DISTINCT user_id FROM billing_transaction WHERE user_id > ? ORDER BY user_id LIMIT ?) UNION \
    (SELECT DISTINCT user_id FROM billing_transaction_archive WHERE user_id > ? ORDER BY user_id LIMIT ?) UNION \
    (SELECT DISTINCT user_id FROM usage_daily WHERE user_id > ? ORDER BY user_id LIMIT ?) UNION \
    (SELECT DISTINCT user_id FROM usage_by WHERE user_id > ? ORDER BY user_id LIMIT ?) UNION \
    (SELECT DISTINCT user_id FROM balance_adjustment WHERE user_id > ? ORDER BY user_id LIMIT ?) UNION \
    (SELECT DISTINCT user_id FROM quota_opening WHERE user_id > ? ORDER BY user_id LIMIT ?) UNION \
    (SELECT DISTINCT user_id FROM charge_refund WHERE user_id > ? ORDER BY user_id LIMIT ?) UNION \
    (SELECT DISTINCT user_id FROM sealed_month WHERE user_id > ? ORDER BY user_id LIMIT ?) UNION \
    (SELECT user_id FROM sealed_account WHERE user_id > ? ORDER BY user_id LIMIT ?) UNION \
    (SELECT DISTINCT user_id FROM recharge_order WHERE (status IN ('success', 'refunded') OR ",
    unreadable_order!(),
    ") \
    AND user_id > ? ORDER BY user_id LIMIT ?) ORDER BY user_id LIMIT ?"
);
/// Number of tables in [`USERS`].
const USER_TABLES: usize = 14;

fn connection(lease: &mut Lease) -> &mut MySqlConnection {
    lease.parts().0
}

async fn read(snapshot: &mut Lease, mut books: Books) -> Result<Vec<Evidence>, StoreError> {
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
    let of_these = |statement: &mut Statement| {
        statement.push("user_id BETWEEN ").texts([first.as_str()]).push(" AND ").texts([last.as_str()]);
    };
    books.note_days(differing_days(connection(snapshot), of_these, MAX_DAYS).await?);
    Ok(books.into_evidence())
}

/// The rows of some users.
async fn rows(
    snapshot: &mut Lease,
    sql: impl SqlSafeStr,
    (first, last): (&UserId, &UserId),
) -> Result<Vec<MySqlRow>, StoreError> {
    let query = sqlx::query(sql).bind(first.as_str()).bind(last.as_str());
    query.fetch_all(connection(snapshot)).await.map_err(store_error)
}

/// The sums of a table of records in each month, and the part that belongs to transactions.
macro_rules! records_of {
    ($table:literal) => {
        concat!(
            "SELECT user_id, service_name, DATE_FORMAT(usage_date, '%Y-%m') AS month, \
             CAST(SUM(CASE type WHEN 1 THEN count WHEN 3 THEN -count ELSE 0 END) AS SIGNED), \
             SUM(IF(type IN (3, 4), 0, amount)), \
             CAST(SUM(IF(trace_id IS NULL OR type IN (3, 4), 0, count)) AS SIGNED), \
             SUM(IF(trace_id IS NULL OR type IN (3, 4), 0, amount)), \
             CAST(SUM(IF(type IN (3, 4), count, 0)) AS SIGNED), SUM(IF(type IN (3, 4), amount, 0)) FROM ",
            $table,
            " WHERE user_id BETWEEN ? AND ? GROUP BY user_id, service_name, month"
        )
    };
}

/// The lists of rows of transactions that should not be, for a range of users.
const LISTS: &[List<MySqlRow>] = &[
    (
        "SELECT user_id, CONCAT('transaction ', trace_id, ' with status ', status, ', count ', count, ', free ', free_count, ', paid ', paid_count) \
         FROM settled_transaction WHERE (count < 0 OR free_count < 0 OR paid_count < 0 \
         OR status NOT IN ('PENDING', 'COMMITTED', 'RELEASED', 'EXPIRED', 'ARCHIVED')) AND user_id BETWEEN ? AND ?",
        audit::note_unreadable,
        audit::add_unreadable,
    ),
    (audit::UNSETTLED, audit::note_unsettled, audit::add_unsettled),
    (WITHOUT_CONTENT, audit::note_unreadable, audit::add_unreadable),
    (DISAGREEING, audit::note_unreadable, audit::add_unreadable),
];

/// The query of each book for a range of users, and the function that notes its rows.
const BOOKS: &[(&str, Note<MySqlRow>)] = &[
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
        "SELECT user_id, SUM(amount), CAST(SUM(free_count + paid_count) AS SIGNED), SUM(refunded_amount), \
         CAST(COALESCE(SUM(refunded_free + refunded_paid), 0) AS SIGNED) FROM settled_transaction \
         WHERE status = 'COMMITTED' AND user_id BETWEEN ? AND ? GROUP BY user_id",
        audit::note_transactions,
    ),
    (
        "SELECT user_id, SUM(amount), CAST(SUM(free_count + lapsed_count + paid_count) AS SIGNED), \
         CAST(SUM(free_count + paid_count) AS SIGNED) FROM charge_refund WHERE user_id BETWEEN ? AND ? GROUP BY user_id",
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
        "SELECT user_id, service_name, DATE_FORMAT(usage_date, '%Y-%m') AS month, CAST(SUM(held_free) AS SIGNED), SUM(held_amount) \
         FROM billing_transaction WHERE status = 'PENDING' AND user_id BETWEEN ? AND ? \
         GROUP BY user_id, service_name, month",
        audit::note_reservations,
    ),
    // The first look-up is by the expiry. The reports of a stream extend the hold, but its row
    // keeps the first expiry. Only those few rows are searched without the expiry.
    (
        "SELECT t.user_id, COUNT(*) FROM billing_transaction t \
         LEFT JOIN reservation_expiry e ON e.expires_at = t.expires_at AND e.user_id = t.user_id \
         AND e.trace_id = t.trace_id \
         WHERE t.status = 'PENDING' AND e.user_id IS NULL AND t.user_id BETWEEN ? AND ? \
         AND (t.user_id, t.trace_id) NOT IN (SELECT user_id, trace_id FROM reservation_expiry) GROUP BY t.user_id",
        audit::note_stranded,
    ),
    (records_of!("billing_record"), audit::note_records),
    (records_of!("billing_record_archive"), audit::note_records),
];
