//! The store on MySQL 8, MariaDB 10.6+, TiDB, and clusters that speak their protocol.
//!
//! Amounts are `DECIMAL(20,6)`, times `DATETIME(6)` in UTC. Columns with a binary collation arrive
//! as bytes, so [`text`] decodes all text. Instants are bound as naive times: sqlx sends other
//! times as TIMESTAMP, whose range is 1970 to 2038.

mod account;
mod connections;
mod identity;
mod jobs;
mod legacy;
mod limits;
mod prices;
mod recharge;
mod reports;
mod row;
mod schema_lock;
mod server;
mod settlement;
mod statement;
mod transaction;

use std::{collections::BTreeMap, sync::atomic::AtomicU32, time::Duration};

use async_trait::async_trait;
use sqlx::{
    ConnectOptions, Connection, MySqlConnection,
    mysql::{MySqlConnectOptions, MySqlRow},
};

pub use self::legacy::UpgradeOptions;
pub(super) use self::server::Server;
use self::{
    connections::Connections,
    statement::Statement,
    transaction::{SESSION, SHARED_SESSION},
};
use super::{
    Store,
    error::store_error,
    plan::{Announce, UpgradePlan},
    row::Columns,
};
use crate::biz::values::error::StoreError;

/// A MySQL-compatible database.
pub struct MySqlStore {
    options: MySqlConnectOptions,
    /// Connections for single statements that commit by themselves.
    reader: Connections,
    /// Connections for transactions that do not wait for locks.
    writer: Connections,
    /// Connections for transactions that wait for the locks of others, and for jobs.
    waiter: Connections,
    /// Number of batches that still look up all their ids, and the number to set after a repeated
    /// id.
    lookup_all: AtomicU32,
    lookup_all_batches: u32,
}

/// The number of connections of a store, and the longest wait for one.
#[derive(Debug, Clone, Copy)]
pub struct PoolLimits {
    pub readers: usize,
    pub writers: usize,
    /// Most settlements that wait for a lock at once.
    pub waiters: usize,
    pub acquire_timeout: Duration,
    /// Number of batches after a repeated id that look up all ids before they insert, because
    /// retries arrive in bursts, for example after an outage.
    pub lookup_all_batches: u32,
}

impl MySqlStore {
    /// A store on a schema that is up to date, see [`bring_up_to_date`]. Connects at the first use.
    pub fn new(options: MySqlConnectOptions, limits: PoolLimits) -> Self {
        let options = options.disable_statement_logging();
        let transactions =
            |session, size| Connections::with_session(options.clone(), session, size, limits.acquire_timeout);
        Self {
            reader: Connections::new(options.clone(), limits.readers, limits.acquire_timeout),
            writer: transactions(SHARED_SESSION, limits.writers),
            waiter: transactions(SESSION, limits.waiters),
            options,
            lookup_all: AtomicU32::new(0),
            lookup_all_batches: limits.lookup_all_batches,
        }
    }
}

/// Migrates the schema, also from the legacy service. Calls `announce` with the plan before any
/// change.
///
/// # Errors
/// [`StoreError::Unavailable`]: the server is unavailable, or another process migrates.
/// [`StoreError::Failed`]: the server refuses, a migration failed, or the data of the legacy service
/// can't be converted.
pub async fn bring_up_to_date(
    options: MySqlConnectOptions,
    connect_timeout: Duration,
    upgrade: &UpgradeOptions,
    announce: &Announce,
) -> Result<(), StoreError> {
    let options = options.disable_statement_logging();
    let mut connection = connect_in_time(&options, connect_timeout).await?;
    legacy::bring_up_to_date(&mut connection, &options, upgrade, announce).await?;
    connection.close().await.map_err(store_error)
}

/// The plan of [`bring_up_to_date`]. Changes nothing.
///
/// # Errors
/// As [`bring_up_to_date`].
pub async fn plan(
    options: MySqlConnectOptions,
    connect_timeout: Duration,
    upgrade: &UpgradeOptions,
) -> Result<UpgradePlan, StoreError> {
    let mut connection = connect_in_time(&options.disable_statement_logging(), connect_timeout).await?;
    let plan = legacy::plan(&mut connection, upgrade).await?;
    connection.close().await.map_err(store_error)?;
    Ok(plan)
}

async fn connect_in_time(options: &MySqlConnectOptions, timeout: Duration) -> Result<MySqlConnection, StoreError> {
    tokio::time::timeout(timeout, connections::connect(options))
        .await
        .map_err(|_| StoreError::Unavailable("no answer while connecting".into()))?
}

#[async_trait]
impl Store for MySqlStore {
    async fn was_changed_elsewhere(&self) -> Result<bool, StoreError> {
        Ok(false)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        // Reads a table, because a cluster node without a majority still answers SELECT 1. The
        // settings are numbers or words, by the server's version.
        let rows = self.reader.fetch_all(sqlx::query(
            "SELECT CAST(@@GLOBAL.read_only AS CHAR), CAST(@@GLOBAL.innodb_read_only AS CHAR), \
             (SELECT COUNT(*) FROM (SELECT 1 FROM user_balance LIMIT 1) found)",
        ));
        for row in rows.await? {
            if !(is_off(&row, 0)? && is_off(&row, 1)?) {
                return Err(StoreError::Unavailable("the database is read-only".into()));
            }
        }
        self.check_node().await
    }

    async fn close(&self) {
        self.writer.close().await;
        self.waiter.close().await;
        self.reader.close().await;
    }
}

impl MySqlStore {
    /// Checks the state of a Galera node. Other servers have no such state.
    async fn check_node(&self) -> Result<(), StoreError> {
        let state = Statement::new(
            "SHOW VARIABLES LIKE 'wsrep_on'; \
             SHOW GLOBAL STATUS WHERE Variable_name IN ('wsrep_cluster_status', 'wsrep_local_state', 'wsrep_ready')",
        );
        let mut settings = BTreeMap::new();
        for row in self.reader.fetch(state).await?.iter().flatten() {
            settings.insert(row.text(0)?.to_ascii_lowercase(), row.text(1)?);
        }
        let is = |name: &str, value: &str| settings.get(name).is_some_and(|found| found == value);
        if !is("wsrep_on", "ON") {
            return Ok(());
        }
        let unusable = |why: &str| Err(StoreError::Unavailable(format!("the database node is not {why}")));
        match () {
            () if !is("wsrep_cluster_status", "Primary") => unusable("in the primary component of its cluster"),
            () if !is("wsrep_local_state", GALERA_SYNCED) => unusable("synced with its cluster"),
            () if !is("wsrep_ready", "ON") => unusable("ready"),
            () => Ok(()),
        }
    }
}

/// The `wsrep_local_state` of a node that has applied all writes of its cluster.
const GALERA_SYNCED: &str = "4";

/// Whether a setting of the server is off.
fn is_off(row: &MySqlRow, column: usize) -> Result<bool, StoreError> {
    Ok(matches!(row.text(column)?.as_str(), "0" | "OFF"))
}
