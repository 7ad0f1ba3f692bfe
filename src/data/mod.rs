//! The traits of `crate::biz`, implemented on MySQL-compatible databases and on SQLite;
//! rate limits in the memory of the process, vocabularies in the binary.

pub mod dsn;
mod error;
pub mod former_zone;
mod marks;
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
    account::AccountStore,
    archive::RecordArchive,
    audit::AuditStore,
    error::StoreError,
    findings::FindingStore,
    key_quota::KeyQuotaStore,
    limit::LimitStore,
    low::LowStore,
    prices::PriceStore,
    recharge::order::OrderStore,
    record::RecordStore,
    reset::QuotaRows,
    rollup::RollupStore,
    runs::RunStore,
    settlement::{ledger::Ledger, transaction::TransactionStore},
    statistics::Statistics,
    users::Users,
};

/// A database that keeps everything the service owns.
#[async_trait]
pub trait Store:
    AccountStore
    + Ledger
    + TransactionStore
    + LimitStore
    + LowStore
    + FindingStore
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

    /// Whether the database answers.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn ping(&self) -> Result<(), StoreError>;

    /// Waits for running statements and closes every connection.
    async fn close(&self);
}
