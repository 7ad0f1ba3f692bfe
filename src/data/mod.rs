//! Implements the traits of `crate::biz`: stores on MySQL-compatible databases and on SQLite,
//! caches and rate limits in Redis and in memory, the client of payment-service, and the
//! embedded token vocabularies.

mod column_codes;
pub mod dsn;
mod error;
mod history;
pub mod legacy_zone;
pub mod memory;
mod migrations;
pub mod mysql;
pub mod payment;
pub mod plan;
pub mod redis;
mod row;
mod rows;
mod spans;
pub mod sqlite;
pub mod tls;
mod transaction_archive;
mod usage;
pub mod vocabulary;
pub mod webhooks;

use std::sync::Arc;

use async_trait::async_trait;

use crate::biz::{
    account::{AccountStore, users::Users},
    audit_trail::AuditTrail,
    charge::prices::{PriceStore, VersionStore},
    database::clock_skew::DatabaseClock,
    database::identity::IdentityStore,
    events::{EventFeed, closing::ClosedMonths},
    jobs::{
        archive::RecordArchive,
        audit::AuditStore,
        low_balance::LowBalanceStore,
        ops_stats::OpsStatsStore,
        reset::QuotaRows,
        rollup::RollupStore,
        runs::{RunReader, RunStore},
        seals::store::SealStore,
    },
    limits::{caps::LimitStore, key_quota::KeyQuotaStore},
    recharge::{RechargeStore, matching::SettlementStore},
    reports::{record::RecordStore, statistics::Statistics, usage::UseStore},
    settlement::{adjustments::AdjustmentStore, ledger::Ledger, transaction::TransactionStore},
    statements::{exports::BookStore, statement::StatementStore},
    values::error::StoreError,
    webhooks::store::DeliveryStore,
};

/// A database of all durable state of the service.
#[async_trait]
pub trait Store:
    AccountStore
    + AuditTrail
    + DatabaseClock
    + IdentityStore
    + EventFeed
    + ClosedMonths
    + DeliveryStore
    + Ledger
    + TransactionStore
    + LimitStore
    + LowBalanceStore
    + OpsStatsStore
    + KeyQuotaStore
    + PriceStore
    + VersionStore
    + RechargeStore
    + SettlementStore
    + AdjustmentStore
    + RecordStore
    + Statistics
    + UseStore
    + StatementStore
    + BookStore
    + AuditStore
    + SealStore
    + RunStore
    + RunReader
    + Users
    + QuotaRows
    + RecordArchive
    + RollupStore
{
    /// Whether another process has changed the database since the last call. Only SQLite can
    /// detect this; MySQL always returns false.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn was_changed_elsewhere(&self) -> Result<bool, StoreError>;

    /// Checks that the database answers and takes writes.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn ping(&self) -> Result<(), StoreError>;

    /// The ledger for the engine.
    fn ledger(self: Arc<Self>) -> Arc<dyn Ledger>;

    /// Whether the preferred one of several hosts is in use. Always true for a single host.
    fn is_on_first_host(&self) -> bool {
        true
    }

    /// Waits for running statements and closes every connection.
    async fn close(&self);
}
