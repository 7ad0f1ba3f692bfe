//! The archive of old records, filled a chunk at a time.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use rusqlite::{Connection, TransactionBehavior, params};

use super::{SqliteStore, row::number, store_error, writer::writer_error};
use crate::biz::{archive::RecordArchive, error::StoreError, users::UserSpan};

#[async_trait]
impl RecordArchive for SqliteStore {
    async fn archive(&self, users: &UserSpan, before: DateTime<Utc>, limit: u32) -> Result<u64, StoreError> {
        let users = users.clone();
        self.writer.run(move |connection| archive(connection, &users, before, limit).map_err(writer_error)).await
    }

    async fn count_old(&self, users: &UserSpan, before: DateTime<Utc>) -> Result<u64, StoreError> {
        let count =
            sqlx::query("SELECT COUNT(*) FROM billing_record WHERE user_id > ? AND user_id <= ? AND created_at < ?");
        let count = count.bind(users.after()).bind(users.last.as_str()).bind(before.timestamp_micros());
        number(&count.fetch_one(&self.reader).await.map_err(store_error)?, 0)
    }
}

fn archive(connection: &mut Connection, users: &UserSpan, before: DateTime<Utc>, limit: u32) -> rusqlite::Result<u64> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let moved = {
        // The same rows twice, because nobody else writes meanwhile.
        let chunk = "FROM billing_record WHERE (user_id, created_at, billing_record_id) IN \
            (SELECT user_id, created_at, billing_record_id FROM billing_record \
             WHERE user_id > ?1 AND user_id <= ?2 AND created_at < ?3 \
             ORDER BY user_id, created_at, billing_record_id LIMIT ?4)";
        let columns = "billing_record_id, user_id, service_name, type, amount, count, created_at, usage_date, trace_id";
        let values = params![users.after(), users.last.as_str(), before.timestamp_micros(), limit];
        let mut copy = transaction
            .prepare_cached(&format!("INSERT INTO billing_record_archive ({columns}) SELECT {columns} {chunk}"))?;
        copy.execute(values)?;
        transaction.prepare_cached(&format!("DELETE {chunk}"))?.execute(values)?
    };
    transaction.commit()?;
    Ok(moved as u64)
}
