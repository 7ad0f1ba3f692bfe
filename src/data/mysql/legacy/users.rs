//! Converts the legacy rows in chunks of users: times become UTC, records get their billing days,
//! and the rollup and the opening entries are written. One transaction does all of it for a chunk
//! and saves the progress in `former_upgrade`, so nothing is done twice.

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection, MySqlConnection, Row};

use super::{chunk::Chunk, openings, progress, reading::Reading, session::execute};
use crate::{
    biz::values::error::StoreError,
    data::{error::store_error, row::Columns},
};

/// Limits of one transaction: users, and records. The records of the last user may exceed it.
const USERS: u32 = 500;
const RECORDS: u32 = 10_000;
/// Interval of the progress log.
const SHOW_EVERY: Duration = Duration::from_secs(5);
/// The tables that users are read from; in each, a key starts with the user id.
const TABLES: [&str; 4] = ["user_balance", "free_quota", "billing_record", "recharge_order"];

/// Converts all users that are not converted yet.
pub(super) async fn take_over(connection: &mut MySqlConnection, reading: &Reading) -> Result<(), StoreError> {
    let statements = statements(reading);
    let mut last = reading.begun.as_ref().and_then(|begun| begun.last_user.clone());
    let (mut chunks, mut shown) = (0, Instant::now());
    while let Some(chunk) = next(connection, last.as_deref()).await? {
        let mut transaction = connection.begin().await.map_err(store_error)?;
        for sql in &statements {
            let query = sqlx::query(AssertSqlSafe(sql.as_str())).bind(&chunk.first).bind(&chunk.last);
            query.execute(&mut *transaction).await.map_err(store_error)?;
        }
        openings::write(&mut transaction, &chunk).await?;
        progress::reached(&mut transaction, last.as_deref(), &chunk.last).await?;
        transaction.commit().await.map_err(store_error)?;
        chunks += 1;
        if shown.elapsed() >= SHOW_EVERY {
            shown = Instant::now();
            tracing::info!(chunks, "legacy users converting");
            tracing::debug!(last_user = chunk.last, "legacy users converting");
        }
        last = Some(chunk.last);
    }
    Ok(())
}

/// The SQL statements for a chunk. Each has two parameters: the first and the last user.
fn statements(reading: &Reading) -> Vec<String> {
    let times = &reading.times;
    let range = "WHERE user_id BETWEEN ? AND ?";
    // MySQL assigns from left to right, so the day is computed from the old time.
    let mut set = format!("usage_date = DATE({})", times.billing_sql("created_at"));
    let mut statements = Vec::new();
    if !times.are_utc() {
        set += &format!(", created_at = {}", times.utc_sql("created_at"));
        let (created, updated) = (times.utc_sql("created_at"), times.utc_sql("updated_at"));
        for table in ["user_balance", "free_quota", "recharge_order"] {
            statements.push(format!("UPDATE {table} SET created_at = {created}, updated_at = {updated} {range}"));
        }
    }
    statements.push(format!("UPDATE billing_record SET {set} {range}"));
    statements.push(format!(
        "INSERT INTO usage_daily \
         (user_id, usage_date, service_name, free_count, paid_count, amount, free_records, paid_records) \
         SELECT user_id, usage_date, service_name, SUM(IF(type = 1, count, 0)), SUM(IF(type = 2, count, 0)), \
         SUM(amount), SUM(type = 1), SUM(type = 2) FROM billing_record {range} \
         GROUP BY user_id, usage_date, service_name"
    ));
    statements
}

/// The next chunk after the user `last`: at most [`USERS`] users, with about [`RECORDS`] records.
async fn next(connection: &mut MySqlConnection, last: Option<&str>) -> Result<Option<Chunk>, StoreError> {
    let behind = if last.is_some() { "WHERE user_id > ?" } else { "" };
    let parts =
        TABLES.map(|table| format!("(SELECT DISTINCT user_id FROM {table} {behind} ORDER BY user_id LIMIT {USERS})"));
    let sql = format!(
        "SELECT MIN(user_id), MAX(user_id) FROM (SELECT user_id FROM ({}) known ORDER BY user_id LIMIT {USERS}) chunk",
        parts.join(" UNION ")
    );
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for last in last.into_iter().flat_map(|last| [last; TABLES.len()]) {
        query = query.bind(last);
    }
    let row = query.fetch_one(&mut *connection).await.map_err(store_error)?;
    let (Some(first), Some(mut last)) = (row.optional_text(0)?, row.optional_text(1)?) else { return Ok(None) };
    let full = sqlx::query(
        "SELECT user_id FROM billing_record WHERE user_id BETWEEN ? AND ? ORDER BY user_id LIMIT 1 OFFSET ?",
    )
    .bind(&first)
    .bind(&last)
    .bind(RECORDS)
    .fetch_optional(connection)
    .await
    .map_err(store_error)?;
    if let Some(row) = full {
        last = row.optional_text(0)?.unwrap_or(last);
    }
    Ok(Some(Chunk { first, last }))
}

/// The last step of a conversion. It marks the database as this service's.
pub(super) async fn forbid_records_without_a_day(connection: &mut MySqlConnection) -> Result<(), StoreError> {
    let row = sqlx::query("SELECT COUNT(*) FROM billing_record WHERE usage_date IS NULL").fetch_one(&mut *connection);
    let late: i64 = row.await.and_then(|row| row.try_get(0)).map_err(store_error)?;
    if late > 0 {
        return Err(StoreError::Failed(format!(
            "the legacy service wrote {late} records during the conversion: stop it, restore the backup, \
             and begin again"
        )));
    }
    execute(connection, "ALTER TABLE billing_record MODIFY usage_date DATE NOT NULL").await
}
