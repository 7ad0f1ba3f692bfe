//! What settlement needs of a database.

use async_trait::async_trait;

use super::posting::{Batch, Outcome};
use crate::biz::error::StoreError;

/// Settles batches, each in one transaction.
#[async_trait]
pub trait Ledger: Send + Sync + 'static {
    /// Loads the accounts of the batch under lock, has [`super::rule::settle`]
    /// decide, writes what it decided, and commits. One outcome for each posting,
    /// in order; returned only after the commit.
    ///
    /// Settling the same batch again is safe: what had committed is found by its
    /// ids and answered as it was.
    ///
    /// # Errors
    /// [`StoreError::Conflict`]: nothing was written.
    /// [`StoreError::Unavailable`]: the outcome is unknown; settle again to learn it.
    /// [`StoreError::Failed`]: nothing was written, and it would fail again.
    async fn settle(&self, batch: &Batch) -> Result<Vec<Outcome>, StoreError>;
}
