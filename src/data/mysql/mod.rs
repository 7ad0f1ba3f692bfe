//! The store on MySQL 8, MariaDB 10.6+ and clusters that speak their protocol.
//!
//! Amounts are `DECIMAL(20,6)`, times `DATETIME(6)` in UTC. Columns with a binary
//! collation arrive as bytes, so all text is decoded by [`text`]. Instants are bound
//! as naive times: sqlx sends others as TIMESTAMP, which ends in 1970 and 2038.

mod account;
mod connections;
mod jobs;
mod legacy;
mod limits;
mod prices;
mod recharge;
mod reports;
mod row;
mod settlement;
mod statement;

use std::{sync::atomic::AtomicU32, time::Duration};

use async_trait::async_trait;
use sqlx::{ConnectOptions, Connection, MySqlConnection, mysql::MySqlConnectOptions};

use self::connections::Connections;
pub use self::legacy::UpgradeOptions;
use super::{
    Store,
    error::store_error,
    plan::{Announce, UpgradePlan},
};
use crate::biz::values::error::StoreError;

/// A MySQL-compatible database.
pub struct MySqlStore {
    options: MySqlConnectOptions,
    /// Single statements that commit by themselves.
    reader: Connections,
    /// Transactions.
    writer: Connections,
    /// Transactions that wait for a lock that others hold.
    waiter: Connections,
    /// Batches that will still look all their ids up, and how many do so from a repeat on.
    lookup_all: AtomicU32,
    lookup_all_batches: u32,
}

/// How many connections a store may hold, and how long one is waited for.
#[derive(Debug, Clone, Copy)]
pub struct PoolLimits {
    pub readers: usize,
    pub writers: usize,
    /// Settlements that wait for a lock at once.
    pub waiters: usize,
    pub acquire_timeout: Duration,
    /// After an id was met again, this many batches look all of theirs up before they
    /// insert: repeats come in swarms, as after an outage.
    pub lookup_all_batches: u32,
}

impl MySqlStore {
    /// A store on a schema that is up to date, see [`bring_up_to_date`]. Connects when needed.
    pub fn new(options: MySqlConnectOptions, limits: PoolLimits) -> Self {
        let options = options.disable_statement_logging();
        Self {
            reader: Connections::new(options.clone(), limits.readers, limits.acquire_timeout),
            writer: Connections::new(options.clone(), limits.writers, limits.acquire_timeout),
            waiter: Connections::new(options.clone(), limits.waiters, limits.acquire_timeout),
            options,
            lookup_all: AtomicU32::new(0),
            lookup_all_batches: limits.lookup_all_batches,
        }
    }
}

/// Brings the schema up to date, that of the legacy service, too; `announce` is told the
/// plan before anything is changed.
///
/// # Errors
/// [`StoreError::Unavailable`] while the server does not answer or another process does the
/// same, [`StoreError::Failed`] when the server refuses, a migration fails, or what the
/// legacy service left can't be taken over.
pub async fn bring_up_to_date(
    options: MySqlConnectOptions,
    connect_timeout: Duration,
    upgrade: &UpgradeOptions,
    announce: &Announce,
) -> Result<(), StoreError> {
    let mut connection = connect_in_time(&options.disable_statement_logging(), connect_timeout).await?;
    legacy::bring_up_to_date(&mut connection, upgrade, announce).await?;
    connection.close().await.map_err(store_error)
}

/// What [`bring_up_to_date`] would do. Changes nothing.
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
        self.reader.fetch_all(sqlx::query("SELECT 1")).await.map(|_| ())
    }

    async fn close(&self) {
        self.writer.close().await;
        self.waiter.close().await;
        self.reader.close().await;
    }
}
