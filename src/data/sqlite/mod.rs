//! The store on SQLite, the embedded default without an installation.
//!
//! Amounts are whole millionths and times microseconds since 1970, both INTEGER.
//! The journal is a write-ahead log that is synced at every commit. All writes go through one
//! connection, see [`writer`]; reads use a pool.

mod account;
mod audit_trail;
mod checkpoints;
mod deliveries;
mod events;
mod exports;
mod identity;
mod jobs;
mod limits;
mod prices;
mod reader;
mod recharge;
mod reports;
mod row;
mod settlement;
mod statements;
mod unapplied;
mod usage;
mod webhooks;
mod writer;

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use sqlx::{
    Connection, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use self::{
    reader::Reader,
    writer::{Writer, writer_error},
};
use super::{
    Store,
    error::store_error,
    migrations,
    plan::{Announce, UpgradePlan},
};
use crate::biz::{
    settlement::{ledger::Ledger, lookup::FullLookups},
    values::error::StoreError,
};

/// A SQLite database file.
pub struct SqliteStore {
    reader: Reader,
    writer: Writer,
    /// The last data version of the writing connection.
    data_version: AtomicI64,
    full_lookups: Arc<FullLookups>,
}

/// The number of connections of a store, and the longest wait for one.
#[derive(Debug, Clone, Copy)]
pub struct SqliteLimits {
    pub readers: u32,
    pub acquire_timeout: Duration,
    /// The number of batches with full look-ups after a repeated id, see [`FullLookups`].
    pub full_lookups: u32,
}

/// Longest wait for the write lock, which another process such as cron may hold.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

impl SqliteStore {
    /// Opens the file, creates it and its folder if they are missing, and brings the schema up to
    /// date. Calls `announce` with the plan before the migration.
    ///
    /// # Errors
    /// [`StoreError::Failed`] if the file or its folder can't be written, or a migration fails;
    /// [`StoreError::Unavailable`] if the disk is full or another process migrates.
    pub async fn connect(
        options: SqliteConnectOptions,
        limits: SqliteLimits,
        announce: &Announce,
    ) -> Result<Self, StoreError> {
        let folder = options.get_filename().parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder {
            std::fs::create_dir_all(folder)
                .map_err(|error| StoreError::Failed(format!("can't create {}: {error}", folder.display())))?;
        }
        ensure_writable(options.get_filename())?;
        let options = options
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(false);
        let mut migrating = sqlx::SqliteConnection::connect_with(&options).await.map_err(store_error)?;
        let lock = options.get_filename().with_added_extension("lock");
        announce(&planned(&migrations::pending_sqlite(&mut migrating).await?));
        migrations::run_sqlite(&mut migrating, &lock).await?;
        migrating.close().await.map_err(store_error)?;
        let writer = Writer::open(options.get_filename(), BUSY_TIMEOUT)?;
        Ok(Self {
            data_version: AtomicI64::new(data_version(&writer).await?),
            writer,
            full_lookups: Arc::new(FullLookups::new(limits.full_lookups)),
            reader: Reader(
                SqlitePoolOptions::new()
                    .max_connections(limits.readers)
                    .acquire_timeout(limits.acquire_timeout)
                    .test_before_acquire(false)
                    .idle_timeout(None)
                    .max_lifetime(None)
                    .connect_lazy_with(options),
            ),
        })
    }
}

/// SQLite instructions between two checks of the time: a fraction of a millisecond.
const INSTRUCTIONS: i32 = 10_000;

impl SqliteStore {
    /// A connection whose queries end `within` a time from now, because a query does not notice a caller that has
    /// gone. It is one of its own: the handler would abort later queries of others on a connection of the pool.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn connect_within(&self, within: Duration) -> Result<SqliteConnection, StoreError> {
        let mut connection =
            SqliteConnection::connect_with(&self.reader.connect_options()).await.map_err(store_error)?;
        let began = Instant::now();
        connection
            .lock_handle()
            .await
            .map_err(store_error)?
            .set_progress_handler(INSTRUCTIONS, move || began.elapsed() < within);
        Ok(connection)
    }
}

/// The permissions of a new file. SQLite gives the log and its index those of the database.
const OWNER_ALONE: u32 = 0o600;

/// Opens the file for a clear error, because SQLite does not report why it can't open a file. Creates
/// a missing one for its owner alone, because it has everybody's balances.
fn ensure_writable(file: &Path) -> Result<(), StoreError> {
    match OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(OWNER_ALONE).open(file) {
        Ok(_) => Ok(()),
        Err(error) => Err(StoreError::Failed(format!("can't write {}: {error}", file.display()))),
    }
}

/// The migration plan of [`SqliteStore::connect`]. Changes nothing.
///
/// # Errors
/// As [`SqliteStore::connect`].
pub async fn plan(options: SqliteConnectOptions) -> Result<UpgradePlan, StoreError> {
    if !options.get_filename().exists() {
        return Ok(planned(&migrations::pending(&[])));
    }
    let unreadable =
        |error: io::Error| StoreError::Failed(format!("can't read {}: {error}", options.get_filename().display()));
    File::open(options.get_filename()).map_err(unreadable)?;
    let options = options.read_only(true).create_if_missing(false);
    let mut connection = sqlx::SqliteConnection::connect_with(&options).await.map_err(store_error)?;
    let pending = migrations::pending_sqlite(&mut connection).await?;
    connection.close().await.map_err(store_error)?;
    Ok(planned(&pending))
}

/// The plan of the pending migrations. The legacy service never ran on SQLite, so no legacy data is
/// converted.
fn planned(pending: &[&str]) -> UpgradePlan {
    let mut plan = UpgradePlan::default();
    plan.lines.push("the database is a SQLite file; it has no legacy tables".into());
    plan.add_migrations(pending);
    plan
}

/// The data version, which changes with every commit of another connection.
async fn data_version(writer: &Writer) -> Result<i64, StoreError> {
    let version = writer
        .run(|connection| connection.pragma_query_value(None, "data_version", |row| row.get(0)).map_err(writer_error));
    version.await
}

#[async_trait]
impl Store for SqliteStore {
    /// Compares the data version of the writing connection, which changes with every commit of
    /// another connection.
    async fn was_changed_elsewhere(&self) -> Result<bool, StoreError> {
        let version = data_version(&self.writer).await?;
        let last = self.data_version.swap(version, Relaxed);
        Ok(last != version)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.reader).await.map_err(store_error)?;
        self.writer.ensure_writable().await
    }

    fn ledger(self: Arc<Self>) -> Arc<dyn Ledger> {
        self
    }

    async fn close(&self) {
        self.writer.close().await;
        self.reader.close().await;
    }
}

#[cfg(test)]
mod tests {
    use sqlx::sqlite::SqliteRow;
    use tempfile::TempDir;

    use super::*;
    use crate::data::row::Columns;

    /// A store on a new file, which lives as long as the folder.
    pub(super) async fn empty_store() -> (SqliteStore, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let options = SqliteConnectOptions::new().filename(folder.path().join("billing.db"));
        let limits = SqliteLimits { readers: 1, acquire_timeout: BUSY_TIMEOUT, full_lookups: 0 };
        let store = SqliteStore::connect(options, limits, &|_| {}).await.unwrap();
        (store, folder)
    }

    /// The reads of tables in a plan.
    pub(super) fn searches(plan: &[SqliteRow]) -> Vec<String> {
        let steps = plan.iter().map(|row| row.text(3).unwrap());
        steps.filter(|step| step.starts_with("S") && !step.contains("json_each")).collect()
    }
}
