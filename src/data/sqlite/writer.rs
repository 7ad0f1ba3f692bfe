//! The writing connection. SQLite has one writer at a time. With one connection, writers wait in a
//! queue and not for a lock.
//!
//! A settlement runs hundreds of small statements. They run on the thread that has the connection,
//! one prepared statement a row. A driver that sends each statement to another thread, as sqlx
//! does, costs more than the statements.
//!
//! The thread is none of those for blocking work: frequent writes would keep all of those awake, with the memory that
//! they hold.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rusqlite::{Connection, OpenFlags, Params, Row, Statement, Transaction};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{checkpoints::Checkpoints, reader::round_trip};
use crate::{
    biz::values::{error::StoreError, spans},
    data::error::{self, of_sqlite},
};

/// Size of the page cache. It keeps the pages that many users share and the pages that a batch changes.
/// A page that does not fit is written to the log before the commit, and often again.
const CACHE_KIB: i64 = 32 * 1024;

/// Size to which a longer log is truncated. The log grows while a reader keeps a checkpoint from its end.
const LOG_BYTES: i64 = 128 * 1024 * 1024;

/// Longest pause of a job between two chunks.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// Size of the cache of prepared statements, above the number of statements.
const STATEMENTS: usize = 80;

/// Time for which a write proves that the file is writable.
const PROOF_LASTS: Duration = Duration::from_secs(1);

/// Time limit of a trial write.
const TRIAL_TIMEOUT: Duration = Duration::from_millis(300);

/// Most pieces of work that wait for the thread. Further ones wait for room.
const QUEUE: usize = 64;

type Work = Box<dyn FnOnce(&mut Connection) + Send>;

#[derive(Clone)]
pub(super) struct Writer {
    /// The queue of the thread. `None` after the close.
    queue: Arc<Mutex<Option<mpsc::Sender<Work>>>>,
    /// Cancelled when the thread has closed the connection.
    ended: CancellationToken,
    /// The evidence of the last writes.
    proof: Arc<Mutex<Proof>>,
    /// One trial at a time.
    trial: Arc<tokio::sync::Mutex<()>>,
}

/// Whether writes are possible, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Proof {
    /// At the start, and after a write that failed because of the disk or the file.
    #[default]
    Missing,
    /// A write was committed at that time.
    Written(Instant),
    /// Another process kept the write lock from a trial for the whole busy timeout.
    LockedOut,
}

impl Writer {
    /// Opens an existing database.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`], also if the thread does not start.
    pub fn open(file: &Path, busy_timeout: Duration) -> Result<Self, StoreError> {
        let connection = open(file, busy_timeout).map_err(writer_error)?;
        let checkpoints = Checkpoints::start(connect(file).map_err(writer_error)?);
        let checkpoints = checkpoints
            .map_err(|error| StoreError::Failed(format!("the checkpoint thread does not start: {error}")))?;
        let (sender, works) = mpsc::channel(QUEUE);
        let ended = CancellationToken::new();
        let end = ended.clone().drop_guard();
        let work = move || {
            let _end = end;
            run_all(connection, checkpoints, works);
        };
        let started = thread::Builder::new().name("sqlite-writer".into()).spawn(work);
        started.map_err(|error| StoreError::Failed(format!("the writing thread does not start: {error}")))?;
        let queue = Arc::new(Mutex::new(Some(sender)));
        Ok(Self { queue, ended, proof: Arc::default(), trial: Arc::default() })
    }

    /// Runs `work` on the thread of the connection. Work that is in its queue runs to its end even if the caller
    /// goes away.
    ///
    /// # Errors
    /// The errors of `work`; [`StoreError::Unavailable`] after [`Self::close`];
    /// [`StoreError::Failed`] if `work` panics.
    pub async fn run<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let (proof, (answer, answered)) = (self.proof.clone(), oneshot::channel());
        let work: Work = Box::new(move |connection| {
            let before = Checkpoints::pages();
            let done = work(connection);
            match &done {
                Ok(_) if Checkpoints::pages() != before => note(&proof, Proof::Written(Instant::now())),
                Err(StoreError::Unavailable(_)) => note(&proof, Proof::Missing),
                Ok(_) | Err(_) => {}
            }
            // Fails if the caller has gone.
            let _ = answer.send(done);
        });
        let closed = || StoreError::Unavailable("the database is closed".into());
        let queue = lock(&self.queue).clone().ok_or_else(closed)?;
        let done = async {
            queue.send(work).await.map_err(|_| closed())?;
            answered.await.map_err(|_| StoreError::Failed("writing panicked".into()))?
        };
        spans::traced(round_trip("write"), done).await
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

    /// Checks that the file is writable. A recent write proves it. Without one, as in an idle
    /// service or after a failure, one page is written on trial. A trial that waits for other
    /// writers is no failure, unless one has waited for the whole busy timeout since the last write.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    pub async fn ensure_writable(&self) -> Result<(), StoreError> {
        match tokio::time::timeout(TRIAL_TIMEOUT, self.write_on_trial()).await {
            Ok(Err(StoreError::Conflict(_))) | Err(_) => match *lock(&self.proof) {
                Proof::LockedOut => Err(StoreError::Unavailable("another process does not give the write lock".into())),
                Proof::Missing | Proof::Written(_) => Ok(()),
            },
            Ok(tried) => tried,
        }
    }

    async fn write_on_trial(&self) -> Result<(), StoreError> {
        let trial = self.trial.clone().lock_owned().await;
        if matches!(*lock(&self.proof), Proof::Written(at) if at.elapsed() < PROOF_LASTS) {
            return Ok(());
        }
        let proof = self.proof.clone();
        self.run(move |connection| {
            // Held until the work ends, even if the caller has gone.
            let _trial = trial;
            // The page is written even if the value does not change. Nothing reads it.
            let version: i64 =
                connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(writer_error)?;
            let tried = connection.pragma_update(None, "user_version", version).map_err(writer_error);
            match tried {
                Ok(()) => note(&proof, Proof::Written(Instant::now())),
                Err(StoreError::Conflict(_)) => note(&proof, Proof::LockedOut),
                Err(_) => {}
            }
            tried
        })
        .await
    }

    /// Waits for the work in the queue, and closes the connection.
    pub async fn close(&self) {
        drop(lock(&self.queue).take());
        self.ended.cancelled().await;
    }
}

/// Runs all work until its senders are gone, and closes the connection.
fn run_all(mut connection: Connection, mut checkpoints: Checkpoints, mut works: mpsc::Receiver<Work>) {
    Checkpoints::watch(&connection);
    while let Some(work) = works.blocking_recv() {
        // A panic has rolled its transaction back, and has dropped the sender of the answer.
        let _ = catch_unwind(AssertUnwindSafe(|| work(&mut connection)));
        checkpoints.go_on(&connection);
    }
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

fn note(proof: &Mutex<Proof>, new: Proof) {
    *lock(proof) = new;
}

fn open(file: &Path, busy_timeout: Duration) -> rusqlite::Result<Connection> {
    let connection = connect(file)?;
    connection.busy_timeout(busy_timeout)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update(None, "journal_size_limit", LOG_BYTES)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

/// A connection that syncs all that it writes.
fn connect(file: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
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

/// Commits. After any error of the commit its outcome is unknown.
pub(super) fn commit(transaction: Transaction<'_>) -> Result<(), StoreError> {
    transaction.commit().map_err(|error| StoreError::Unavailable(format!("during commit: {error}").into()))
}

pub(super) fn writer_error(error: rusqlite::Error) -> StoreError {
    of_sqlite(code_of(&error), error.to_string())
}

/// Whether an insert failed because its key exists.
pub(super) fn is_taken(error: &rusqlite::Error) -> bool {
    error::is_taken(code_of(error))
}

fn code_of(error: &rusqlite::Error) -> Option<i32> {
    error.sqlite_error().map(|cause| cause.extended_code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_synced_at_every_commit() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("billing.db");
        std::fs::File::create(&file).unwrap();
        let connection = open(&file, Duration::ZERO).unwrap();
        let setting = |name: &str| -> i64 { connection.pragma_query_value(None, name, |row| row.get(0)).unwrap() };
        let journal: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
        assert_eq!(journal, "wal");
        assert_eq!(setting("synchronous"), 2, "FULL");
        assert_eq!(setting("journal_size_limit"), LOG_BYTES);
        assert_eq!(setting("cache_size"), -CACHE_KIB);
    }

    #[tokio::test]
    async fn a_trial_of_writing_does_not_take_another_writer_for_a_fault() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("billing.db");
        std::fs::File::create(&file).unwrap();
        let writer = Writer::open(&file, Duration::from_secs(1)).unwrap();
        let other = open(&file, Duration::ZERO).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        assert_eq!(writer.ensure_writable().await, Ok(()));
        other.execute_batch("ROLLBACK").unwrap();
        assert_eq!(writer.write_on_trial().await, Ok(()));
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        assert_eq!(writer.write_on_trial().await, Ok(()), "the last trial is proof enough");
    }

    #[tokio::test]
    async fn a_write_that_is_rolled_back_proves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("billing.db");
        std::fs::File::create(&file).unwrap();
        let writer = Writer::open(&file, Duration::ZERO).unwrap();
        for (sql, is_proof) in [
            ("BEGIN; CREATE TABLE t (x INTEGER); INSERT INTO t VALUES (1); ROLLBACK", false),
            ("BEGIN; CREATE TABLE t (x INTEGER); INSERT INTO t VALUES (1); COMMIT", true),
        ] {
            writer.run(move |connection| connection.execute_batch(sql).map_err(writer_error)).await.unwrap();
            assert_eq!(matches!(*lock(&writer.proof), Proof::Written(_)), is_proof, "{sql}");
        }
    }

    #[tokio::test]
    async fn a_lock_that_outlasts_the_busy_timeout_is_a_fault_until_the_next_write() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("billing.db");
        std::fs::File::create(&file).unwrap();
        let writer = Writer::open(&file, Duration::ZERO).unwrap();
        let other = open(&file, Duration::ZERO).unwrap();
        for write_sql in [None, Some("CREATE TABLE t (x INTEGER); INSERT INTO t VALUES (1)")] {
            other.execute_batch("BEGIN IMMEDIATE").unwrap();
            assert!(matches!(writer.ensure_writable().await, Err(StoreError::Unavailable(_))));
            assert_eq!(*lock(&writer.proof), Proof::LockedOut);
            other.execute_batch("ROLLBACK").unwrap();
            if let Some(sql) = write_sql {
                writer.run(move |connection| connection.execute_batch(sql).map_err(writer_error)).await.unwrap();
                assert!(matches!(*lock(&writer.proof), Proof::Written(_)));
            }
            assert_eq!(writer.ensure_writable().await, Ok(()));
            // The proof of the write ends early.
            note(&writer.proof, Proof::Missing);
        }
    }

    #[tokio::test]
    async fn a_write_that_panics_changes_nothing_and_hinders_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("billing.db");
        std::fs::File::create(&file).unwrap();
        let writer = Writer::open(&file, Duration::ZERO).unwrap();
        let insert = |value: i64, panics: bool| {
            writer.run(move |connection| {
                let transaction = connection.transaction().map_err(writer_error)?;
                let insert = "CREATE TABLE IF NOT EXISTS t (x INTEGER)";
                transaction
                    .execute(insert, [])
                    .and_then(|_| transaction.execute("INSERT INTO t VALUES (?)", [value]))
                    .map_err(writer_error)?;
                assert!(!panics, "the test wants it");
                commit(transaction)
            })
        };
        assert_eq!(insert(1, false).await, Ok(()));
        assert!(matches!(insert(2, true).await, Err(StoreError::Failed(_))));
        assert_eq!(insert(3, false).await, Ok(()));
        let sum = |connection: &mut Connection| {
            connection.query_one("SELECT SUM(x) FROM t", [], |row| row.get::<_, i64>(0)).map_err(writer_error)
        };
        assert_eq!(writer.run(sum).await, Ok(4));
        writer.close().await;
        assert!(matches!(writer.run(sum).await, Err(StoreError::Unavailable(_))));
        // The close has ended the use of the file.
        assert_eq!(open(&file, Duration::ZERO).unwrap().execute("DROP TABLE t", []), Ok(0));
    }

    #[tokio::test]
    async fn a_write_that_failed_for_the_file_ends_the_proof_of_the_last() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("billing.db");
        std::fs::File::create(&file).unwrap();
        let writer = Writer::open(&file, Duration::ZERO).unwrap();
        let write =
            |sql: &'static str| writer.run(move |connection| connection.execute_batch(sql).map_err(writer_error));
        write("CREATE TABLE t (x INTEGER); INSERT INTO t VALUES (1); PRAGMA query_only = ON").await.unwrap();
        assert!(matches!(*lock(&writer.proof), Proof::Written(_)));
        assert!(matches!(write("INSERT INTO t VALUES (2)").await, Err(StoreError::Unavailable(_))));
        assert_eq!(*lock(&writer.proof), Proof::Missing);
        assert!(matches!(writer.ensure_writable().await, Err(StoreError::Unavailable(_))));
    }
}
