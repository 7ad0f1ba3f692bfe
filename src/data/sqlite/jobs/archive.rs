//! Moves old records and their transactions to the archive, one chunk at a time.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use sqlx::sqlite::SqliteRow;

use crate::{
    biz::{
        account::users::UserSpan,
        jobs::archive::{LeftPage, Moved, RecordArchive},
        values::{error::StoreError, ids::UserId},
    },
    data::{
        error::store_error,
        row::Columns,
        rows::account::user_of,
        sqlite::{SqliteStore, writer::writer_error},
        transaction_archive::{is_final, moved_columns, narrowed},
    },
};

/// The first old records of a user. All statements see the same records, because nothing else
/// writes in between.
macro_rules! first_old {
    () => {
        "FROM billing_record WHERE user_id = ?1 AND (created_at, billing_record_id) IN \
         (SELECT created_at, billing_record_id FROM billing_record WHERE user_id = ?1 AND created_at < ?2 \
         ORDER BY created_at, billing_record_id LIMIT ?3)"
    };
}

/// The columns of a record, with the trace id of the main one of a charge.
macro_rules! main_record {
    () => {
        "created_at, billing_record_id, iif(type IN (1, 2), trace_id, NULL) "
    };
}

const COPY: &str = concat!(
    "INSERT INTO billing_record_archive \
     (billing_record_id, user_id, service_name, type, amount, count, created_at, usage_date, trace_id, late_of) \
     SELECT billing_record_id, user_id, service_name, type, amount, count, created_at, usage_date, trace_id, late_of ",
    first_old!()
);
const DELETE: &str = concat!("DELETE ", first_old!());
const OLD_RECORDS: &str = concat!("SELECT ", main_record!(), first_old!());
const ARCHIVED_RECORDS: &str = concat!(
    "SELECT ",
    main_record!(),
    "FROM billing_record_archive WHERE user_id = ?1 AND (created_at, billing_record_id) > (?2, ?3) \
     ORDER BY created_at, billing_record_id LIMIT ?4"
);
const COPY_TRANSACTION: &str = concat!(
    "INSERT INTO billing_transaction_archive (",
    moved_columns!(),
    ") SELECT ",
    moved_columns!(),
    " FROM billing_transaction WHERE user_id = ? AND trace_id = ? AND record_id = ? AND ",
    is_final!(),
    " ON CONFLICT (user_id, created_at, trace_id) DO NOTHING"
);
const IS_MOVABLE: &str =
    concat!("SELECT 1 FROM billing_transaction WHERE user_id = ? AND trace_id = ? AND record_id = ? AND ", is_final!());
const NARROW: &str = concat!(
    "UPDATE billing_transaction SET ",
    narrowed!(),
    " WHERE user_id = ? AND trace_id = ? AND record_id = ? AND ",
    is_final!()
);

/// The numbers of records in a table, of their final transactions, and of those of them with content in the archive.
macro_rules! counts_of {
    ($records:literal) => {
        concat!(
            "SELECT COUNT(*), COUNT(t.user_id), COUNT(a.user_id) FROM (SELECT user_id AS by_user, billing_record_id AS main, \
             iif(type IN (1, 2), trace_id, NULL) AS trace FROM ",
            $records,
            ") r LEFT JOIN billing_transaction t ON t.user_id = r.by_user AND t.trace_id = r.trace \
             AND t.record_id = r.main AND ",
            is_final!("t."),
            " LEFT JOIN billing_transaction_archive a \
             ON a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id"
        )
    };
}

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

    async fn archive(&self, users: &[UserId], before: DateTime<Utc>, limit: u32) -> Result<Moved, StoreError> {
        let users = users.to_vec();
        self.writer.run_and_rest(move |connection| archive(connection, &users, before, limit)).await
    }

    async fn count_old(&self, users: &[UserId], before: DateTime<Utc>) -> Result<Moved, StoreError> {
        let mut old = Moved::default();
        for user in users {
            let count = sqlx::query(counts_of!("billing_record WHERE user_id = ? AND created_at < ?"));
            let count = count.bind(user.as_str()).bind(before.timestamp_micros());
            let row = count.fetch_one(&self.reader).await.map_err(store_error)?;
            old += counted(&row)?;
        }
        Ok(old)
    }

    async fn may_have_left(&self) -> Result<bool, StoreError> {
        let noted = sqlx::query("SELECT 1 FROM transactions_archived").fetch_optional(&self.reader).await;
        Ok(noted.map_err(store_error)?.is_none())
    }

    async fn users_with_archived(&self, users: &UserSpan) -> Result<Vec<UserId>, StoreError> {
        let query = sqlx::query(
            "SELECT user_id FROM user_balance account WHERE user_id > ? AND user_id <= ? AND EXISTS \
             (SELECT 1 FROM billing_record_archive WHERE user_id = account.user_id) ORDER BY user_id",
        );
        let rows = query.bind(users.after()).bind(users.last.as_str()).fetch_all(&self.reader).await;
        rows.map_err(store_error)?.iter().map(user_of).collect()
    }

    async fn archive_left(
        &self,
        user: &UserId,
        after: Option<&(DateTime<Utc>, String)>,
        limit: u32,
    ) -> Result<LeftPage, StoreError> {
        let (user, after) = (user.clone(), after.cloned());
        self.writer.run_and_rest(move |connection| archive_left(connection, &user, after, limit)).await
    }

    async fn count_left(&self, user: &UserId) -> Result<Moved, StoreError> {
        let count = sqlx::query(counts_of!("billing_record_archive WHERE user_id = ?")).bind(user.as_str());
        let row = count.fetch_one(&self.reader).await.map_err(store_error)?;
        Ok(Moved { records: 0, ..counted(&row)? })
    }

    async fn note_none_left(&self, at: DateTime<Utc>) -> Result<(), StoreError> {
        let note = "INSERT INTO transactions_archived (only_row, done_at) VALUES (1, ?) \
            ON CONFLICT DO UPDATE SET done_at = excluded.done_at";
        self.writer
            .run(move |connection| connection.execute(note, [at.timestamp_micros()]).map(|_| ()).map_err(writer_error))
            .await
    }
}

/// A row of [`counts_of`].
fn counted(row: &SqliteRow) -> Result<Moved, StoreError> {
    let (last, contested): (u64, u64) = (row.number(1)?, row.number(2)?);
    Ok(Moved { records: row.number(0)?, transactions: last.saturating_sub(contested), contested })
}

/// A record: time, id, and trace id if it may be the main record of a transaction.
type MainRecord = (i64, String, Option<String>);

fn archive(
    connection: &mut Connection,
    users: &[UserId],
    before: DateTime<Utc>,
    limit: u32,
) -> Result<Moved, StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(writer_error)?;
    let mut moved = Moved::default();
    for user in users {
        let left = u64::from(limit) - moved.records;
        let records = first_old(&transaction, user, before, left).map_err(writer_error)?;
        let values = params![user.as_str(), before.timestamp_micros(), left];
        let run = |sql| transaction.prepare_cached(sql)?.execute(values);
        let (copied, deleted) = (run(COPY).map_err(writer_error)?, run(DELETE).map_err(writer_error)?);
        if copied != records.len() || deleted != copied {
            return Err(StoreError::Conflict("the old records differ from their copies".into()));
        }
        moved.records += copied as u64;
        moved += move_transactions(&transaction, user, &records)?;
        if moved.records >= u64::from(limit) {
            break;
        }
    }
    transaction.commit().map_err(writer_error)?;
    Ok(moved)
}

fn first_old(
    transaction: &Transaction<'_>,
    user: &UserId,
    before: DateTime<Utc>,
    limit: u64,
) -> rusqlite::Result<Vec<MainRecord>> {
    let values = params![user.as_str(), before.timestamp_micros(), limit];
    let mut find = transaction.prepare_cached(OLD_RECORDS)?;
    find.query_map(values, |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
}

fn archive_left(
    connection: &mut Connection,
    user: &UserId,
    after: Option<(DateTime<Utc>, String)>,
    limit: u32,
) -> Result<LeftPage, StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(writer_error)?;
    let records = archived(&transaction, user, after, limit).map_err(writer_error)?;
    let moved = move_transactions(&transaction, user, &records)?;
    transaction.commit().map_err(writer_error)?;
    let is_last_page = (records.len() as u64) < u64::from(limit);
    let last = records.into_iter().next_back().filter(|_| !is_last_page);
    let last = last.and_then(|(at, id, _)| Some((DateTime::from_timestamp_micros(at)?, id)));
    Ok(LeftPage { moved, last })
}

fn archived(
    transaction: &Transaction<'_>,
    user: &UserId,
    after: Option<(DateTime<Utc>, String)>,
    limit: u32,
) -> rusqlite::Result<Vec<MainRecord>> {
    let (at, id) = after.map_or((i64::MIN, String::new()), |(at, id)| (at.timestamp_micros(), id));
    let mut find = transaction.prepare_cached(ARCHIVED_RECORDS)?;
    find.query_map(params![user.as_str(), at, id, limit], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
}

/// Moves the final transactions of some main records of a user.
fn move_transactions(
    transaction: &Transaction<'_>,
    user: &UserId,
    records: &[MainRecord],
) -> Result<Moved, StoreError> {
    let mut moved = Moved::default();
    for (_, record, trace) in records {
        let Some(trace) = trace else { continue };
        let key = [user.as_str(), trace, record];
        let run = |sql| transaction.prepare_cached(sql)?.execute(key);
        let copied = run(COPY_TRANSACTION).map_err(writer_error)?;
        if copied > 0 {
            if run(NARROW).map_err(writer_error)? != copied {
                return Err(StoreError::Conflict("an old transaction differs from its copy".into()));
            }
            moved.transactions += copied as u64;
            continue;
        }
        let mut find = transaction.prepare_cached(IS_MOVABLE).map_err(writer_error)?;
        if find.exists(key).map_err(writer_error)? {
            tracing::warn!(trace_id = %trace, "old transaction not moved; the archive has content with its id already");
            moved.contested += 1;
        }
    }
    Ok(moved)
}
