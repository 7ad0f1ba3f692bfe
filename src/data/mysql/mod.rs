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
mod settlement;
mod statement;

use std::{sync::atomic::AtomicU32, time::Duration};

use async_trait::async_trait;
use sqlx::{
    ColumnIndex, ConnectOptions, Connection, MySqlConnection, Row,
    mysql::{MySqlConnectOptions, MySqlRow},
};

use self::connections::Connections;
pub use self::legacy::Settings;
use super::{
    Store,
    column_codes::{charged_by_number, charged_by_of, quota_unit_name, quota_unit_of},
    error::{corrupt, store_error},
    plan::{Announce, Plan},
};
use crate::biz::values::{error::StoreError, money::Money};

/// A MySQL-compatible database.
pub struct MySqlStore {
    options: MySqlConnectOptions,
    /// Single statements that commit by themselves.
    reader: Connections,
    /// Transactions.
    writer: Connections,
    /// Batches that will still look all their ids up, and how many do so from a repeat on.
    lookup_all: AtomicU32,
    lookup_all_batches: u32,
}

/// How many connections a store may hold, and how long one is waited for.
#[derive(Debug, Clone, Copy)]
pub struct PoolLimits {
    pub readers: usize,
    pub writers: usize,
    pub acquire_timeout: Duration,
    /// After an id was met again, this many batches look all of theirs up before they
    /// insert: repeats come in swarms, as after an outage.
    pub lookup_all_batches: u32,
}

/// What every connection begins with, so that the server's defaults do not matter.
/// Read committed: no gap locks, and what is read after the account's lock is what
/// its last holder committed. Strict: a value that does not fit is an error and never
/// cut to size. A process that froze, or a machine that went without a word, does not
/// hold its locks for hours; MySQL can only be told so of idle connections. And no list
/// of keys is made into a subquery, which would lock in another order.
const SESSION: &str = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; \
    SET SESSION sql_mode = 'STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION', \
    autocommit = 1, innodb_lock_wait_timeout = 2, wait_timeout = 30 \
    /*M! , idle_transaction_timeout = 5, in_predicate_conversion_threshold = 0 */";

impl MySqlStore {
    /// A store on a schema that is up to date, see [`bring_up_to_date`]. Connects when needed.
    pub fn new(options: MySqlConnectOptions, limits: PoolLimits) -> Self {
        let options = options.disable_statement_logging();
        Self {
            reader: Connections::new(options.clone(), limits.readers, limits.acquire_timeout),
            writer: Connections::new(options.clone(), limits.writers, limits.acquire_timeout),
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
    settings: &Settings,
    announce: &Announce,
) -> Result<(), StoreError> {
    let mut connection = connect_in_time(&options.disable_statement_logging(), connect_timeout).await?;
    legacy::bring_up_to_date(&mut connection, settings, announce).await?;
    connection.close().await.map_err(store_error)
}

/// What [`bring_up_to_date`] would do. Changes nothing.
///
/// # Errors
/// As [`bring_up_to_date`].
pub async fn plan(
    options: MySqlConnectOptions,
    connect_timeout: Duration,
    settings: &Settings,
) -> Result<Plan, StoreError> {
    let mut connection = connect_in_time(&options.disable_statement_logging(), connect_timeout).await?;
    let plan = legacy::plan(&mut connection, settings).await?;
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
        // A table, because a node of a cluster that lost its majority answers SELECT 1. The
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
        Ok(())
    }

    async fn close(&self) {
        self.writer.close().await;
        self.reader.close().await;
    }
}

/// Whether a setting of the server is off.
fn is_off(row: &MySqlRow, column: usize) -> Result<bool, StoreError> {
    Ok(matches!(text(row, column)?.as_str(), "0" | "OFF"))
}

/// Text of any collation; `None` for NULL.
fn optional_text<I: ColumnIndex<MySqlRow>>(row: &MySqlRow, column: I) -> Result<Option<String>, StoreError> {
    row.try_get::<Option<Vec<u8>>, _>(column)
        .map_err(store_error)?
        .map(|bytes| String::from_utf8(bytes).map_err(|_| corrupt("text")))
        .transpose()
}

/// Text of any collation.
fn text<I: ColumnIndex<MySqlRow>>(row: &MySqlRow, column: I) -> Result<String, StoreError> {
    optional_text(row, column)?.ok_or_else(|| corrupt("text"))
}

fn optional_money<I: ColumnIndex<MySqlRow>>(row: &MySqlRow, column: I) -> Result<Option<Money>, StoreError> {
    row.try_get::<Option<rust_decimal::Decimal>, _>(column)
        .map_err(store_error)?
        .map(|decimal| Money::from_decimal(decimal).ok_or_else(|| corrupt("amount")))
        .transpose()
}

/// An amount; NULL, as of an empty sum, is zero.
fn money<I: ColumnIndex<MySqlRow>>(row: &MySqlRow, column: I) -> Result<Money, StoreError> {
    Ok(optional_money(row, column)?.unwrap_or_default())
}

/// A whole number that is not negative.
fn number<T: TryFrom<i64>, I: ColumnIndex<MySqlRow>>(row: &MySqlRow, column: I) -> Result<T, StoreError> {
    let value: i64 = row.try_get(column).map_err(store_error)?;
    T::try_from(value).map_err(|_| corrupt("number"))
}
