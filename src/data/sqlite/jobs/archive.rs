//! Moves old records to the archive, one chunk at a time.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use rusqlite::{Connection, TransactionBehavior, params};

use crate::{
    biz::{
        account::users::UserSpan,
        jobs::archive::RecordArchive,
        values::{error::StoreError, ids::UserId},
    },
    data::{
        error::store_error,
        row::Columns,
        rows::account::user_of,
        sqlite::{SqliteStore, writer::writer_error},
    },
};

/// The first old records of a user. Both statements see the same records, because nothing else
/// writes in between.
macro_rules! first_old {
    () => {
        "FROM billing_record WHERE user_id = ?1 AND (created_at, billing_record_id) IN \
         (SELECT created_at, billing_record_id FROM billing_record WHERE user_id = ?1 AND created_at < ?2 \
         ORDER BY created_at, billing_record_id LIMIT ?3)"
    };
}

const COPY: &str = concat!(
    "INSERT INTO billing_record_archive \
     (billing_record_id, user_id, service_name, type, amount, count, created_at, usage_date, trace_id, late_of) \
     SELECT billing_record_id, user_id, service_name, type, amount, count, created_at, usage_date, trace_id, late_of ",
    first_old!()
);
const DELETE: &str = concat!("DELETE ", first_old!());

#[async_trait]
impl RecordArchive for SqliteStore {
    async fn users_with_old(&self, users: &UserSpan, before: DateTime<Utc>) -> Result<Vec<UserId>, StoreError> {
        let query = sqlx::query(
            "SELECT user_id FROM user_balance account WHERE user_id > ? AND user_id <= ? AND EXISTS \
             (SELECT 1 FROM billing_record WHERE user_id = account.user_id AND created_at < ?) ORDER BY user_id",
        );
        let query = query.bind(users.after()).bind(users.last.as_str()).bind(before.timestamp_micros());
        let rows = query.fetch_all(&self.reader).await.map_err(store_error)?;
        rows.iter().map(user_of).collect()
    }

    async fn archive(&self, users: &[UserId], before: DateTime<Utc>, limit: u32) -> Result<u64, StoreError> {
        let users = users.to_vec();
        self.writer
            .run_and_rest(move |connection| archive(connection, &users, before, limit).map_err(writer_error))
            .await
    }

    async fn count_old(&self, users: &[UserId], before: DateTime<Utc>) -> Result<u64, StoreError> {
        let mut old = 0;
        for user in users {
            let count = sqlx::query("SELECT COUNT(*) FROM billing_record WHERE user_id = ? AND created_at < ?");
            let count = count.bind(user.as_str()).bind(before.timestamp_micros());
            old += count.fetch_one(&self.reader).await.map_err(store_error)?.number::<u64>(0)?;
        }
        Ok(old)
    }
}

fn archive(connection: &mut Connection, users: &[UserId], before: DateTime<Utc>, limit: u32) -> rusqlite::Result<u64> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut moved = 0;
    for user in users {
        let values = params![user.as_str(), before.timestamp_micros(), u64::from(limit) - moved];
        transaction.prepare_cached(COPY)?.execute(values)?;
        moved += transaction.prepare_cached(DELETE)?.execute(values)? as u64;
        if moved >= u64::from(limit) {
            break;
        }
    }
    transaction.commit()?;
    Ok(moved)
}
