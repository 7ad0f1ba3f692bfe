//! The interface of settlement to the database.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;

use super::{
    lock::{LeftOut, Lock},
    posting::{Batch, Outcome},
};
use crate::biz::{
    events::{EventType, alerts::Watch},
    settlement::change::Change,
    values::{
        error::StoreError,
        ids::{ApiKeyId, UserId},
    },
};

/// The result of a committed transaction.
#[derive(Debug, Default)]
pub struct SettledBatch {
    /// One for each posting of the accounts that are not left out, in order.
    pub outcomes: Vec<Outcome>,
    /// The changes that this transaction committed.
    pub changes: Vec<Change>,
    /// The events that this transaction committed.
    pub events: Vec<EventType>,
    /// The watches of the batch's accounts that are not the default.
    pub watches: BTreeMap<UserId, Watch>,
    /// Every API key whose quotas the batch may have changed.
    pub api_keys: Vec<ApiKeyId>,
    /// The accounts of the batch that the transaction did not touch.
    pub left_out: LeftOut,
}

/// Gives the batch to settle, for [`Ledger::settle_behind`].
pub type Gather = dyn Fn() -> Arc<Batch> + Send + Sync;

/// Settles batches, each in one transaction.
#[async_trait]
pub trait Ledger: Send + Sync + 'static {
    /// Loads the accounts of the batch under lock, calls [`super::rule::settle`], writes its
    /// decision, and commits. Returns only after the commit.
    ///
    /// The transaction waits for no lock. An account is left out if another transaction holds its
    /// rows or its API key.
    ///
    /// A repeated settlement of the same batch is safe: the ledger finds committed postings by
    /// their ids and returns their first outcome.
    ///
    /// # Errors
    /// [`StoreError::Conflict`]: nothing was written.
    /// [`StoreError::Unavailable`]: the outcome is unknown; settle again to learn it.
    /// [`StoreError::Failed`]: nothing was written, and it would fail again.
    async fn settle(&self, batch: &Batch) -> Result<SettledBatch, StoreError>;

    /// As [`Self::settle`], after a wait for a lock. Asks `gather` for the batch once the lock is
    /// granted, so that it has all postings that came meanwhile. Asks at most once. The batch may be
    /// empty.
    ///
    /// With the lock of an API key, the transaction begins once that lock is free, and then waits for
    /// no other lock. With the lock of an account, which is the only account of the batch, the
    /// transaction waits for every lock that it needs, in a fixed order. So no two transactions wait
    /// for each other.
    ///
    /// # Errors
    /// As [`Self::settle`].
    async fn settle_behind(&self, lock: &Lock, gather: &Gather) -> Result<SettledBatch, StoreError>;
}
