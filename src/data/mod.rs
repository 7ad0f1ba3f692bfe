//! The traits of `crate::biz`, implemented on MySQL-compatible databases and on SQLite;
//! rate limits in the memory of the process, vocabularies in the binary.

mod column_codes;
pub mod dsn;
mod error;
pub mod legacy_zone;
pub mod memory;
mod migrations;
pub mod mysql;
pub mod payment;
pub mod plan;
pub mod redis;
pub mod sqlite;
pub mod vocabulary;

use async_trait::async_trait;

use crate::biz::{
    account::{AccountStore, users::Users},
    charge::prices::PriceStore,
    jobs::{
        archive::RecordArchive, audit::AuditStore, low_balance::LowBalanceStore, ops_stats::OpsStatsStore,
        reset::QuotaRows, rollup::RollupStore, runs::RunStore,
    },
    limits::{caps::LimitStore, key_quota::KeyQuotaStore},
    recharge::order::OrderStore,
    reports::{record::RecordStore, statistics::Statistics},
    settlement::{ledger::Ledger, transaction::TransactionStore},
    values::error::StoreError,
};

/// A database that keeps everything the service owns.
#[async_trait]
pub trait Store:
    AccountStore
    + Ledger
    + TransactionStore
    + LimitStore
    + LowBalanceStore
    + OpsStatsStore
    + KeyQuotaStore
    + PriceStore
    + OrderStore
    + RecordStore
    + Statistics
    + AuditStore
    + RunStore
    + Users
    + QuotaRows
    + RecordArchive
    + RollupStore
{
    /// Whether another process changed the database since this was asked last. Only an
    /// embedded database can tell; any other says no.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn was_changed_elsewhere(&self) -> Result<bool, StoreError>;

    /// Whether the database answers and takes writes.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn ping(&self) -> Result<(), StoreError>;

    /// Waits for running statements and closes every connection.
    async fn close(&self);
}
