//! The store on SQLite: the embedded default, nothing to install.
//!
//! Amounts are whole millionths and times microseconds since 1970, both INTEGER.
//! Many rows travel as one JSON parameter, read by `json_each`, so that every
//! statement has one text and stays prepared. The journal is a write-ahead log that
//! is synced at every commit.

mod accounts;
mod audit;
mod ledger;
mod reads;
mod transactions;

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{
    ColumnIndex, Connection, Row, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous},
};

use super::{
    Store,
    error::{corrupt, store_error},
    migrations,
};
use crate::biz::{calendar::Calendar, error::StoreError, money::Money};

/// A SQLite database file.
pub struct SqliteStore {
    reader: SqlitePool,
    /// SQLite has one writer at a time: one connection, so that waiting is a queue
    /// and not a lock.
    writer: SqlitePool,
}

/// Another process, such as cron, may hold the write lock this long.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

impl SqliteStore {
    /// Opens the file, creating it and its folder when missing, and brings the
    /// schema up to date.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the file can't be opened,
    /// [`StoreError::Failed`] when a migration fails.
    pub async fn connect(
        options: SqliteConnectOptions,
        readers: u32,
        acquire_timeout: Duration,
    ) -> Result<Self, StoreError> {
        let folder = options.get_filename().parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder {
            std::fs::create_dir_all(folder)
                .map_err(|error| StoreError::Unavailable(format!("{}: {error}", folder.display())))?;
        }
        let options = options
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(false);
        let pool = |connections| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(acquire_timeout)
                .test_before_acquire(false)
                .idle_timeout(None)
                .max_lifetime(None)
        };
        let mut migrating = sqlx::SqliteConnection::connect_with(&options).await.map_err(store_error)?;
        let lock = options.get_filename().with_added_extension("lock");
        migrations::run_sqlite(&mut migrating, &lock).await?;
        migrating.close().await.map_err(store_error)?;
        Ok(Self {
            reader: pool(readers).connect_lazy_with(options.clone()),
            writer: pool(1)
                // SQLite ends a transaction by itself when the disk fails; the rollback
                // after it fails in turn, and sqlx goes on believing in a transaction.
                .before_acquire(|connection, _| Box::pin(async move { Ok(!connection.is_in_transaction()) }))
                .connect_lazy_with(options),
        })
    }
}

#[async_trait]
impl Store for SqliteStore {
    /// The former service never ran on SQLite.
    async fn date_former_records(&self, _: &Calendar) -> Result<(), StoreError> {
        Ok(())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.reader).await.map_err(store_error).map(|_| ())
    }

    async fn close(&self) {
        self.writer.close().await;
        self.reader.close().await;
    }
}

fn text<I: ColumnIndex<SqliteRow>>(row: &SqliteRow, column: I) -> Result<String, StoreError> {
    row.try_get(column).map_err(store_error)
}

fn optional_text<I: ColumnIndex<SqliteRow>>(row: &SqliteRow, column: I) -> Result<Option<String>, StoreError> {
    row.try_get(column).map_err(store_error)
}

/// An amount; NULL, as of an empty sum, is zero.
fn money<I: ColumnIndex<SqliteRow>>(row: &SqliteRow, column: I) -> Result<Money, StoreError> {
    Ok(optional_money(row, column)?.unwrap_or_default())
}

fn optional_money<I: ColumnIndex<SqliteRow>>(row: &SqliteRow, column: I) -> Result<Option<Money>, StoreError> {
    let micros: Option<i64> = row.try_get(column).map_err(store_error)?;
    Ok(micros.map(Money::from_micros))
}

/// A whole number that is not negative.
fn number<T: TryFrom<i64>, I: ColumnIndex<SqliteRow>>(row: &SqliteRow, column: I) -> Result<T, StoreError> {
    let value: i64 = row.try_get(column).map_err(store_error)?;
    T::try_from(value).map_err(|_| corrupt("number"))
}

fn instant<I: ColumnIndex<SqliteRow>>(row: &SqliteRow, column: I) -> Result<DateTime<Utc>, StoreError> {
    let micros: i64 = row.try_get(column).map_err(store_error)?;
    DateTime::from_timestamp_micros(micros).ok_or_else(|| corrupt("time"))
}

/// Rows as the one JSON parameter of a statement.
fn json_rows<R: serde::Serialize>(rows: impl IntoIterator<Item = R>) -> Result<String, StoreError> {
    let rows: Vec<R> = rows.into_iter().collect();
    serde_json::to_string(&rows).map_err(|error| StoreError::Failed(error.to_string()))
}
