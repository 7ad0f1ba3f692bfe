//! The books of a month for statements: one statement over several tables, so that they are of one
//! snapshot.

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use sqlx::{Connection, Sqlite, query::Query, sqlite::SqliteArguments};

use super::SqliteStore;
use crate::{
    biz::{
        settlement::posting::UNAPPLIED_PREFIX,
        statements::{
            period::StatementPeriod,
            statement::{MonthBooks, Split, StatementStore},
        },
        values::{error::StoreError, ids::UserId},
    },
    data::{
        error::store_error,
        row::Columns,
        rows::statement::{month_book_of, month_books_of, no_usage},
    },
};

/// The last change of an order is its credit or later, but for the skew of the clocks of two processes.
const MOST_SKEW: TimeDelta = TimeDelta::days(1);

/// The users, a JSON array. A literal `IN` makes a range of the key for each of them.
macro_rules! of_users {
    () => {
        " WHERE user_id IN (SELECT value FROM json_each(?1))"
    };
}

/// The balances of the users ?1, and the sums of each kind of movement since the begin of the month: from ?2
/// to before ?3, or from the day ?4 to ?5. ?6 is the earliest last change of an order, and ?7 the begin of
/// the ids of credited payments. A plus keeps SQLite from an index by status, with the rows of all users.
macro_rules! books {
    () => {
        concat!(
            "SELECT user_id, 'balance' AS source, 0 AS is_later, NULL AS service_name, NULL AS model, NULL AS late_of, \
             0 AS calls, 0 AS free_count, 0 AS paid_count, ",
            no_usage!(),
            ", balance AS amount FROM user_balance",
            of_users!(),
            " UNION ALL SELECT user_id, 'top_up', COALESCE(credited_at, updated_at) >= ?3, NULL, NULL, NULL, \
             COUNT(*), 0, 0, ",
            no_usage!(),
            ", SUM(amount) FROM recharge_order",
            of_users!(),
            " AND updated_at >= ?6 AND +status IN ('success', 'refunded') AND COALESCE(credited_at, updated_at) >= ?2 \
             GROUP BY 1, 3 \
             UNION ALL SELECT user_id, iif(kind = 'chargeback', 'chargeback', 'top_up_refund'), settled_at >= ?3, \
             NULL, NULL, NULL, COUNT(*), 0, 0, ",
            no_usage!(),
            ", -SUM(amount) FROM recharge_refund",
            of_users!(),
            " AND +status = 'success' AND settled_at >= ?2 GROUP BY 1, 2, 3 \
             UNION ALL SELECT user_id, iif(substr(adjustment_id, 1, length(?7)) = ?7, 'unapplied_payment', \
             'adjustment'), created_at >= ?3, NULL, NULL, NULL, COUNT(*), 0, 0, ",
            no_usage!(),
            ", SUM(amount) \
             FROM balance_adjustment",
            of_users!(),
            " AND created_at >= ?2 GROUP BY 1, 2, 3 \
             UNION ALL SELECT user_id, 'charge', usage_date > ?5, service_name, NULL, NULL, 0, SUM(free_count), \
             SUM(paid_count), ",
            no_usage!(),
            ", -SUM(amount) FROM usage_daily",
            of_users!(),
            " AND usage_date >= ?4 GROUP BY 1, 3, 4 \
             UNION ALL SELECT user_id, 'charge_refund', usage_date > ?5, service_name, NULL, NULL, 0, \
             SUM(refunded_free), SUM(refunded_paid), ",
            no_usage!(),
            ", SUM(refunded_amount) FROM usage_daily",
            of_users!(),
            " AND refunded_amount IS NOT NULL AND usage_date >= ?4 GROUP BY 1, 3, 4"
        )
    };
}

/// Tokens of a charge, at its main record. A commit may still add to a charge that the report of a stream
/// made, and the row then has the tokens of both; so only those of other charges are final.
macro_rules! tokens {
    ($column:literal) => {
        concat!(
            "SUM(iif(t.record_id = r.billing_record_id AND t.charged_by IS NULL, COALESCE(t.",
            $column,
            ", 0), 0)), "
        )
    };
}

/// The records of the user ?8 in one table.
macro_rules! records_of {
    ($table:literal) => {
        concat!(
            "SELECT user_id, billing_record_id, service_name, type, amount, count, trace_id, late_of FROM ",
            $table,
            " WHERE user_id = ?8 AND created_at >= ?2 AND created_at < ?3"
        )
    };
}

const BOOKS: &str = books!();

/// As [`BOOKS`], and the charges and refunds of the month, from the records of both tables: ?9 lines of them at
/// most.
const BOOKS_BY_MODEL: &str = concat!(
    books!(),
    " UNION ALL SELECT * FROM (SELECT r.user_id, \
     iif(r.type IN (3, 4), 'charge_refund_by_model', 'charge_by_model'), 0, r.service_name, t.model, r.late_of, \
     COUNT(DISTINCT r.trace_id) + SUM(r.trace_id IS NULL), SUM(iif(r.type IN (1, 3), r.count, 0)), \
     SUM(iif(r.type IN (2, 4), r.count, 0)), ",
    tokens!("input_tokens"),
    tokens!("output_tokens"),
    tokens!("cached_input_tokens"),
    tokens!("cache_write_tokens"),
    tokens!("cache_write_1h_tokens"),
    tokens!("reasoning_tokens"),
    tokens!("audio_input_tokens"),
    tokens!("audio_output_tokens"),
    tokens!("images"),
    "SUM(iif(r.type IN (3, 4), r.amount, -r.amount)) FROM (",
    records_of!("billing_record"),
    " UNION ALL ",
    records_of!("billing_record_archive"),
    ") r LEFT JOIN settled_transaction t ON t.user_id = r.user_id AND t.trace_id = r.trace_id \
     GROUP BY 1, 2, 4, 5, 6 LIMIT ?9)"
);

#[async_trait]
impl StatementStore for SqliteStore {
    async fn taken_over_at(&self) -> Result<Option<DateTime<Utc>>, StoreError> {
        let query = sqlx::query("SELECT taken_over_at FROM legacy_takeover");
        let row = query.fetch_optional(&self.reader).await.map_err(store_error)?;
        row.map(|row| row.time(0)).transpose()
    }

    async fn books_of(&self, users: &[UserId], period: &StatementPeriod) -> Result<Vec<MonthBooks>, StoreError> {
        let rows = bound(BOOKS, users, period).fetch_all(&self.reader).await.map_err(store_error)?;
        month_books_of(users, &rows)
    }

    async fn month_books(
        &self,
        user: &UserId,
        period: &StatementPeriod,
        split: Option<Split>,
    ) -> Result<MonthBooks, StoreError> {
        let users = std::slice::from_ref(user);
        let rows = match split {
            Some(Split { lines, within }) => {
                // One of the pool is held meanwhile, so that no more run at once than without a limit of time.
                let _one_of_the_pool = self.reader.acquire().await.map_err(store_error)?;
                let mut connection = self.connect_within(within).await?;
                // One more shows that there are more.
                let query = bound(BOOKS_BY_MODEL, users, period).bind(user.as_str()).bind(lines.saturating_add(1));
                let rows = query.fetch_all(&mut connection).await.map_err(store_error)?;
                connection.close().await.map_err(store_error)?;
                rows
            }
            None => bound(BOOKS, users, period).fetch_all(&self.reader).await.map_err(store_error)?,
        };
        month_book_of(user, &rows, split)
    }
}

/// Binds the first seven parameters.
fn bound(sql: &'static str, users: &[UserId], period: &StatementPeriod) -> Query<'static, Sqlite, SqliteArguments> {
    let users: Vec<_> = users.iter().map(UserId::as_str).collect();
    sqlx::query(sql)
        .bind(json!(users).to_string())
        .bind(period.start.timestamp_micros())
        .bind(period.end.timestamp_micros())
        .bind(period.days.first.to_string())
        .bind(period.days.last.to_string())
        .bind((period.start - MOST_SKEW).timestamp_micros())
        .bind(UNAPPLIED_PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        biz::values::calendar::{Calendar, SystemClock},
        data::sqlite::tests::{empty_store, searches},
    };

    #[tokio::test]
    async fn a_statement_reads_no_rows_of_other_users() {
        let (store, _folder) = empty_store().await;
        let calendar = Calendar::new(chrono_tz::UTC, SystemClock);
        let period = StatementPeriod::of(calendar.now().month, &calendar, std::time::Duration::ZERO, None).unwrap();
        let plan = format!("EXPLAIN QUERY PLAN {BOOKS}").leak();
        let rows = bound(plan, &[UserId::from_stored("u")], &period).fetch_all(&store.reader).await.unwrap();
        let searches = searches(&rows);
        assert_eq!(searches.len(), 6, "{searches:?}");
        assert!(searches.iter().all(|search| search.contains("(user_id=?")), "{searches:?}");
    }
}
