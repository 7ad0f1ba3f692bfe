//! The writing connection. SQLite has one writer at a time, so one connection makes waiting a queue
//! and not a lock.
//!
//! A settlement runs hundreds of small statements. They run on the thread that has the
//! connection, one prepared statement a row; a driver that sends each to a thread of its
//! own, as sqlx does, costs more than the statements.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rusqlite::{Connection, OpenFlags, Params, Row, Statement};

use crate::{biz::values::error::StoreError, data::error::of_sqlite};

/// Size of the page cache. It keeps the pages that many users share and the pages that a batch changes.
/// A page that does not fit is written to the log before the commit, and often again.
const CACHE_KIB: i64 = 32 * 1024;

/// Pages of the log, 64 MiB, after which a commit copies them to the database. A page that changed
/// often is copied once, so a longer log is less work. The file is then reused from its beginning.
const CHECKPOINT_PAGES: i64 = 16 * 1024;

/// Size to which a longer log is truncated. The log grows while a reader blocks the copy.
const LOG_BYTES: i64 = 128 * 1024 * 1024;

/// Longest pause of a job between two chunks.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// Size of the cache of prepared statements, above the number of statements.
const STATEMENTS: usize = 32;

#[derive(Clone)]
pub(super) struct Writer {
    /// `None` after the close.
    connection: Arc<Mutex<Option<Connection>>>,
}

impl Writer {
    /// Opens an existing database.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    pub fn open(file: &Path, busy_timeout: Duration) -> Result<Self, StoreError> {
        let connection = open(file, busy_timeout).map_err(writer_error)?;
        Ok(Self { connection: Arc::new(Mutex::new(Some(connection))) })
    }

    /// Runs `work` on the connection, on a thread that may block. `work` runs to its end even if the
    /// caller goes away.
    ///
    /// # Errors
    /// The errors of `work`; [`StoreError::Unavailable`] after [`Self::close`];
    /// [`StoreError::Failed`] if `work` panics.
    pub async fn run<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let connection = self.connection.clone();
        let done = tokio::task::spawn_blocking(move || {
            // A panic has rolled its transaction back before the lock was released.
            match connection.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
                Some(connection) => work(connection),
                None => Err(StoreError::Unavailable("the database is closed".into())),
            }
        });
        done.await.map_err(|error| StoreError::Failed(format!("writing panicked: {error}")))?
    }

    /// As [`Self::run`], for jobs that write many chunks. Pauses afterwards for as long as `work`
    /// took, because other processes poll for the lock of the file.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn run_and_rest<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let begun = Instant::now();
        let done = self.run(work).await;
        tokio::time::sleep(begun.elapsed().min(LONGEST_REST)).await;
        done
    }

    /// Waits for the running work, and closes the connection.
    pub async fn close(&self) {
        let connection = self.connection.clone();
        let closed = tokio::task::spawn_blocking(move || {
            drop(connection.lock().unwrap_or_else(PoisonError::into_inner).take());
        });
        if let Err(error) = closed.await {
            tracing::error!(%error, "writing connection not closed");
        }
    }
}

fn open(file: &Path, busy_timeout: Duration) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    connection.busy_timeout(busy_timeout)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.pragma_update(None, "journal_size_limit", LOG_BYTES)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

/// Reads the row of a statement that returns at most one.
pub(super) fn found<T>(
    statement: &mut Statement<'_>,
    key: impl Params,
    read: impl FnOnce(&Row<'_>) -> Result<T, StoreError>,
) -> Result<Option<T>, StoreError> {
    let mut rows = statement.query(key).map_err(writer_error)?;
    rows.next().map_err(writer_error)?.map(read).transpose()
}

pub(super) fn writer_error(error: rusqlite::Error) -> StoreError {
    of_sqlite(error.sqlite_error().map(|cause| cause.extended_code), error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_synced_at_every_commit_and_stays_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("billing.db");
        std::fs::File::create(&file).unwrap();
        let connection = open(&file, Duration::ZERO).unwrap();
        let setting = |name: &str| -> i64 { connection.pragma_query_value(None, name, |row| row.get(0)).unwrap() };
        let journal: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
        assert_eq!(journal, "wal");
        assert_eq!(setting("synchronous"), 2, "FULL");
        assert_eq!(setting("wal_autocheckpoint"), CHECKPOINT_PAGES);
        assert_eq!(setting("journal_size_limit"), LOG_BYTES);
        assert_eq!(setting("cache_size"), -CACHE_KIB);
    }
}
