//! What settlement needs of a database.

use async_trait::async_trait;

use super::posting::{Batch, Outcome};
use crate::biz::{
    settlement::change::Change,
    values::{error::StoreError, ids::ApiKeyId},
};

/// What a transaction settled.
#[derive(Debug, Default)]
pub struct SettledBatch {
    /// One for each posting, in order.
    pub outcomes: Vec<Outcome>,
    /// What is committed and was not before.
    pub changes: Vec<Change>,
    /// Every key whose quotas were at stake.
    pub api_keys: Vec<ApiKeyId>,
}

/// Settles batches, each in one transaction.
#[async_trait]
pub trait Ledger: Send + Sync + 'static {
    /// Loads the accounts of the batch under lock, has [`super::rule::settle`]
    /// decide, writes what it decided, and commits. Returns only after the commit.
    ///
    /// Settling the same batch again is safe: what had committed is found by its
    /// ids and answered as it was.
    ///
    /// # Errors
    /// [`StoreError::Conflict`]: nothing was written.
    /// [`StoreError::Unavailable`]: the outcome is unknown; settle again to learn it.
    /// [`StoreError::Failed`]: nothing was written, and it would fail again.
    async fn settle(&self, batch: &Batch) -> Result<SettledBatch, StoreError>;
}
