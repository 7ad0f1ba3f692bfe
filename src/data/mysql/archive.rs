//! The archive of old records, filled a chunk at a time.

use async_trait::async_trait;
use chrono::{DateTime, NaiveDateTime, Utc};
use sqlx::{Connection, Row};

use super::{MySqlStore, number, store_error, text};
use crate::biz::{archive::RecordArchive, error::StoreError, users::UserSpan};

/// The rows that move: of the users from one to another, older than an instant, and no
/// further than the key of the last one.
macro_rules! chunk {
    () => {
        "billing_record WHERE user_id >= ? AND user_id <= ? AND created_at < ? \
         AND (user_id < ? OR created_at < ? OR (created_at = ? AND billing_record_id <= ?))"
    };
}

#[async_trait]
impl RecordArchive for MySqlStore {
    async fn archive(&self, users: &UserSpan, before: DateTime<Utc>, limit: u32) -> Result<u64, StoreError> {
        let old = sqlx::query(
            "SELECT user_id, created_at, billing_record_id FROM billing_record \
             WHERE user_id > ? AND user_id <= ? AND created_at < ? \
             ORDER BY user_id, created_at, billing_record_id LIMIT ?",
        );
        let old = old.bind(users.after()).bind(users.last.as_str()).bind(before.naive_utc()).bind(limit);
        let rows = self.reader.fetch_all(old).await?;
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(0) };
        let (first, last, last_id) = (text(first, 0)?, text(last, 0)?, text(last, 2)?);
        let last_at: NaiveDateTime = rows[rows.len() - 1].try_get(1).map_err(store_error)?;

        let mut connection = self.writer.take().await?;
        let mut transaction = connection.begin().await.map_err(store_error)?;
        let mut counts = [0, 0];
        for (count, sql) in counts.iter_mut().zip([
            concat!(
                "INSERT INTO billing_record_archive \
                 (billing_record_id, user_id, service_name, type, amount, count, created_at, usage_date, trace_id) \
                 SELECT billing_record_id, user_id, service_name, type, amount, count, created_at, usage_date, \
                 trace_id FROM ",
                chunk!()
            ),
            concat!("DELETE FROM ", chunk!()),
        ]) {
            let moving = sqlx::query(sql)
                .bind(&first)
                .bind(&last)
                .bind(before.naive_utc())
                .bind(&last)
                .bind(last_at)
                .bind(last_at)
                .bind(&last_id);
            *count = moving.execute(&mut *transaction).await.map_err(store_error)?.rows_affected();
        }
        // A late commit writes records of an old day: one that came between the two must
        // not be deleted uncopied.
        if counts[0] != counts[1] {
            return Err(StoreError::Conflict("old records were written meanwhile".into()));
        }
        transaction.commit().await.map_err(store_error)?;
        connection.give_back();
        Ok(rows.len() as u64)
    }

    async fn count_old(&self, users: &UserSpan, before: DateTime<Utc>) -> Result<u64, StoreError> {
        let count =
            sqlx::query("SELECT COUNT(*) FROM billing_record WHERE user_id > ? AND user_id <= ? AND created_at < ?");
        let count = count.bind(users.after()).bind(users.last.as_str()).bind(before.naive_utc());
        let rows = self.reader.fetch_all(count).await?;
        rows.first().map_or(Ok(0), |row| number(row, 0))
    }
}
