//! The traits of `crate::biz`, implemented on MySQL-compatible databases and on SQLite.

pub mod dsn;
mod error;
mod migrations;
pub mod mysql;
pub mod sqlite;

use async_trait::async_trait;

use crate::biz::{
    account::AccountStore, audit::AuditStore, error::StoreError, record::RecordStore, settlement::ledger::Ledger,
    statistics::Statistics,
};

/// A database that keeps everything the service owns.
#[async_trait]
pub trait Store: AccountStore + Ledger + RecordStore + Statistics + AuditStore {
    /// Whether the database answers.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn ping(&self) -> Result<(), StoreError>;

    /// Waits for running statements and closes every connection.
    async fn close(&self);
}
