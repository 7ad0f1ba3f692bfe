//! The lock of schema changes, which one process holds at a time.
//!
//! It has two parts. GET_LOCK ends with its connection, at once, but on a Galera cluster it holds
//! for one node alone. The row of `schema_lease` holds for the whole cluster, and ends when nobody
//! renews it. A process that has GET_LOCK takes the lease over from a dead process of its node
//! without a wait.

use std::time::Duration;

use sqlx::{MySqlConnection, mysql::MySqlConnectOptions};
use tokio::{task::JoinHandle, time};
use uuid::Uuid;

use super::connections::connect;
use crate::{
    biz::values::error::StoreError,
    data::{error::store_error, row::Columns},
};

/// Longest wait for another process that migrates. The caller decides whether to retry.
const WAIT: Duration = Duration::from_secs(5);
/// Pause between two attempts to take the lease.
const PAUSE: Duration = Duration::from_millis(100);
/// Time after which the lease of a dead process ends.
const LEASE: Duration = Duration::from_secs(10);
const RENEWAL: Duration = Duration::from_secs(3);

/// A node of a cluster, as each of its connections names it.
const NODE: &str = "LEFT(CONCAT(@@hostname, ':', @@port), 255)";

/// The lock, held.
pub(super) struct SchemaLock {
    owner: String,
    renewal: JoinHandle<()>,
}

impl SchemaLock {
    /// Waits for the lock. Closing `connection` gives the part of its node back.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: another process migrates, or no answer.
    pub(super) async fn take(
        connection: &mut MySqlConnection,
        options: &MySqlConnectOptions,
    ) -> Result<Self, StoreError> {
        let has_node_lock = lock_node(connection).await?;
        let owner = Uuid::now_v7().to_string();
        let taking = async {
            while !try_take(connection, &owner, has_node_lock).await? {
                time::sleep(PAUSE).await;
            }
            Ok(())
        };
        time::timeout(WAIT, taking).await.unwrap_or_else(|_| Err(elsewhere()))?;
        let renewal = tokio::spawn(renew_on(options.clone(), owner.clone()));
        Ok(Self { owner, renewal })
    }

    /// Renews the lease before a step. A change of a table can hold all writes of a cluster up
    /// for longer than a lease lasts.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: another process has taken the lease over, or no answer.
    pub(super) async fn confirm(&self, connection: &mut MySqlConnection) -> Result<(), StoreError> {
        let renewing = async {
            loop {
                match renew(connection, &self.owner).await {
                    Ok(true) => return Ok(()),
                    Ok(false) => return Err(elsewhere()),
                    // The row was written on another node, or its own renewal has it.
                    Err(StoreError::Conflict(_)) => time::sleep(PAUSE).await,
                    Err(error) => return Err(error),
                }
            }
        };
        time::timeout(WAIT, renewing).await.unwrap_or_else(|_| Err(elsewhere()))
    }

    /// Notes whether the tables of a new database are being created. A process that is killed
    /// meanwhile leaves tables that resemble those of the legacy service.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Conflict`].
    pub(super) async fn note_creating(
        &self,
        connection: &mut MySqlConnection,
        is_creating: bool,
    ) -> Result<(), StoreError> {
        let note = sqlx::query("UPDATE schema_lease SET is_creating = ? WHERE owner = ?").bind(is_creating);
        note.bind(&self.owner).execute(connection).await.map(|_| ()).map_err(store_error)
    }

    /// Lets the next process begin at once.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: the lease ends by itself.
    pub(super) async fn give_back(self, connection: &mut MySqlConnection) -> Result<(), StoreError> {
        let end = sqlx::query("UPDATE schema_lease SET ends_at = UTC_TIMESTAMP(6) WHERE owner = ?").bind(&self.owner);
        end.execute(connection).await.map(|_| ()).map_err(store_error)
    }
}

impl Drop for SchemaLock {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

/// Whether a process holds the lock.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Failed`].
pub(super) async fn is_held(connection: &mut MySqlConnection) -> Result<bool, StoreError> {
    is_row(connection, "SELECT COUNT(*) FROM schema_lease WHERE ends_at > UTC_TIMESTAMP(6)").await
}

/// Whether the tables of a new database are being created, by a process that may have died.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Failed`].
pub(super) async fn is_creating(connection: &mut MySqlConnection) -> Result<bool, StoreError> {
    is_row(connection, "SELECT COUNT(*) FROM schema_lease WHERE is_creating").await
}

async fn is_row(connection: &mut MySqlConnection, count: &'static str) -> Result<bool, StoreError> {
    if !exists(connection).await? {
        return Ok(false);
    }
    let row = sqlx::query(count).fetch_one(connection).await.map_err(store_error)?;
    Ok(row.number::<i64>(0)? > 0)
}

async fn exists(connection: &mut MySqlConnection) -> Result<bool, StoreError> {
    let table = "SELECT COUNT(*) FROM information_schema.tables \
                 WHERE table_schema = DATABASE() AND table_name = 'schema_lease'";
    let row = sqlx::query(table).fetch_one(connection).await.map_err(store_error)?;
    Ok(row.number::<i64>(0)? > 0)
}

fn elsewhere() -> StoreError {
    StoreError::Unavailable("another process is migrating the database; retry later".into())
}

/// Takes the lock of the node; `false` where the server has no such locks.
async fn lock_node(connection: &mut MySqlConnection) -> Result<bool, StoreError> {
    // Lock names are shared by the whole server, and have at most 64 characters.
    let locked = sqlx::query("SELECT COALESCE(GET_LOCK(CONCAT('billing.', MD5(DATABASE())), ?), 0)")
        .bind(WAIT.as_secs())
        .fetch_one(connection)
        .await;
    match locked {
        Ok(row) if row.number::<i64>(0)? == 1 => Ok(true),
        Ok(_) => Err(elsewhere()),
        Err(sqlx::Error::Database(error)) => {
            tracing::warn!(%error, "GET_LOCK failed; migrating with the lease alone");
            Ok(false)
        }
        Err(error) => Err(store_error(error)),
    }
}

async fn try_take(connection: &mut MySqlConnection, owner: &str, has_node_lock: bool) -> Result<bool, StoreError> {
    const TABLE: &str = "CREATE TABLE IF NOT EXISTS schema_lease (\
            id      TINYINT      NOT NULL PRIMARY KEY, \
            owner   VARCHAR(36)  NOT NULL, \
            node    VARCHAR(255) NOT NULL, \
            ends_at DATETIME(6)  NOT NULL, \
            is_creating TINYINT  NOT NULL DEFAULT 0\
        ) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4";
    const ROW: &str = "INSERT IGNORE INTO schema_lease (id, owner, node, ends_at) VALUES (1, '', '', '1970-01-02')";
    // On a cluster even a CREATE TABLE that finds the table aborts what others write to it.
    if !exists(connection).await? {
        sqlx::raw_sql(TABLE).execute(&mut *connection).await.map_err(store_error)?;
    }
    let take = format!(
        "UPDATE schema_lease SET owner = ?, node = {NODE}, ends_at = UTC_TIMESTAMP(6) + INTERVAL ? SECOND \
         WHERE id = 1 AND (ends_at <= UTC_TIMESTAMP(6) OR (? AND node = {NODE}))"
    );
    let taken = async {
        sqlx::raw_sql(ROW).execute(&mut *connection).await?;
        let take = sqlx::query(sqlx::AssertSqlSafe(take)).bind(owner).bind(LEASE.as_secs()).bind(has_node_lock);
        take.execute(&mut *connection).await.map(|done| done.rows_affected() == 1)
    };
    match taken.await.map_err(store_error) {
        // Another node took it in the same moment.
        Err(StoreError::Conflict(_)) => Ok(false),
        taken => taken,
    }
}

async fn renew(connection: &mut MySqlConnection, owner: &str) -> Result<bool, StoreError> {
    let renew = "UPDATE schema_lease SET ends_at = UTC_TIMESTAMP(6) + INTERVAL ? SECOND WHERE owner = ?";
    let renewed = sqlx::query(renew).bind(LEASE.as_secs()).bind(owner).execute(connection).await;
    renewed.map(|done| done.rows_affected() == 1).map_err(store_error)
}

/// Renews the lease until it is lost. A renewal that conflicts or gets no answer is tried again;
/// [`SchemaLock::confirm`] finds a lease that ended meanwhile.
async fn renew_on(options: MySqlConnectOptions, owner: String) {
    let Ok(mut connection) = connect(&options).await else { return };
    loop {
        time::sleep(RENEWAL).await;
        if matches!(renew(&mut connection, &owner).await, Ok(false)) {
            return;
        }
    }
}
