//! Statements with the values of a [`Scope`].

use futures_util::TryStreamExt;
use sqlx::{
    AssertSqlSafe, Sqlite, SqliteExecutor,
    query::Query,
    sqlite::{SqliteArguments, SqliteRow},
};

use super::unreadable::unreadable;
use crate::{
    biz::values::{
        error::StoreError,
        ids::{ApiKeyId, UserId},
    },
    data::{
        error::store_error,
        history::{Piece, Scope, pieces},
        sqlite::settlement::transactions,
    },
};

/// Runs a statement with the values of `scope`.
pub(super) async fn fetch(
    executor: impl SqliteExecutor<'_>,
    sql: &'static str,
    scope: &Scope<'_>,
) -> Result<Vec<SqliteRow>, StoreError> {
    // The text has numbered values, of which a statement uses some.
    bound(text(sql), scope).fetch_all(executor).await.map_err(store_error)
}

/// As [`fetch`], and calls `take` for each row, so that the rows are not in memory together.
pub(super) async fn fetch_each(
    executor: impl SqliteExecutor<'_>,
    sql: &'static str,
    scope: &Scope<'_>,
    take: &mut (dyn FnMut(&SqliteRow) -> Result<(), StoreError> + Send),
) -> Result<(), StoreError> {
    let mut rows = bound(text(sql), scope).fetch(executor);
    while let Some(row) = rows.try_next().await.map_err(store_error)? {
        take(&row)?;
    }
    Ok(())
}

fn text(sql: &'static str) -> String {
    let text = pieces(sql).map(|piece| match piece {
        Piece::Sql(sql) => sql,
        Piece::Value("users") => "SELECT value FROM json_each(?1)",
        Piece::Value("from") => "?2",
        Piece::Value("until") => "?3",
        Piece::Value("id") => "?4",
        Piece::Value("limit") => "?5",
        Piece::Value("day") => "?6",
        Piece::Value("month") => "?7",
        Piece::Value("first") => "?8",
        Piece::Value("last") => "?9",
        Piece::Value("after_trace") => "?10",
        Piece::Value("last_trace") => "?11",
        Piece::Value("traces") => "SELECT value FROM json_each(?12)",
        Piece::Value("is_part") => "?13",
        Piece::Value("keys") => "SELECT value FROM json_each(?14)",
        Piece::Value("first_key") => "?15",
        Piece::Value("last_key") => "?16",
        Piece::Value("columns") => transactions::COLUMNS,
        Piece::Value("an_hour_before_the_end_of_s") => "s.sealed_until - 3600000000",
        // Its integers are large enough.
        Piece::Value("t_free_remaining_large") => "''",
        Piece::Value("no_amount") => "0",
        Piece::Value("pending_as_t") => "billing_transaction t INDEXED BY idx_pending_expiry",
        // The database names an unknown one in its error.
        Piece::Value(name) => unreadable(name).unwrap_or(name),
    });
    text.collect()
}

fn bound<'s>(sql: String, scope: &Scope<'s>) -> Query<'s, Sqlite, SqliteArguments> {
    let users = serde_json::Value::from(scope.users.iter().map(UserId::as_str).collect::<Vec<_>>());
    let keys = serde_json::Value::from(scope.keys.iter().map(ApiKeyId::as_str).collect::<Vec<_>>());
    sqlx::query(AssertSqlSafe(sql))
        .bind(users.to_string())
        .bind(scope.from.timestamp_micros())
        .bind(scope.until.timestamp_micros())
        .bind(scope.id)
        .bind(scope.limit)
        .bind(scope.day.to_string())
        .bind(scope.day.format("%Y-%m").to_string())
        .bind(scope.first)
        .bind(scope.last)
        .bind(scope.after_trace)
        .bind(scope.last_trace)
        .bind(serde_json::Value::from(scope.traces).to_string())
        .bind(scope.is_part)
        .bind(keys.to_string())
        .bind(scope.first_key)
        .bind(scope.last_key)
}
