//! What settlement needs of a database.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::posting::{Batch, Outcome};
use crate::biz::{
    check::cache::entry::Change,
    values::{
        error::StoreError,
        ids::{ApiKeyId, UserId},
    },
};

/// What a transaction settled.
#[derive(Debug, Default)]
pub struct SettledBatch {
    /// One for each posting of the accounts that are not left out, in order.
    pub outcomes: Vec<Outcome>,
    /// What is committed and was not before.
    pub changes: Vec<Change>,
    /// Every key whose quotas were at stake.
    pub api_keys: Vec<ApiKeyId>,
    /// The accounts of the batch that the transaction did not touch.
    pub left_out: LeftOut,
}

/// A lock that one transaction holds and others need.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lock {
    /// The rows of an account.
    Account(UserId),
    /// The quotas of an API key.
    ApiKey(ApiKeyId),
}

/// Why a transaction leaves an account out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// Another transaction holds this lock.
    Locked(Lock),
    /// A stored row cannot be decoded: which one, and why.
    Unreadable(String),
}

/// The accounts that a transaction leaves out. They cost the other accounts of the batch nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeftOut(BTreeMap<UserId, Obstacle>);

impl LeftOut {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, user: &UserId) -> Option<&Obstacle> {
        self.0.get(user)
    }

    pub fn contains(&self, user: &UserId) -> bool {
        self.0.contains_key(user)
    }

    /// Leaves an account out. The first obstacle stands, unless the later one is the account's own lock.
    pub fn insert(&mut self, user: &UserId, obstacle: Obstacle) {
        let is_own_lock = matches!(obstacle, Obstacle::Locked(Lock::Account(_)));
        match self.0.get_mut(user) {
            Some(Obstacle::Unreadable(_)) => {}
            Some(first) if is_own_lock => *first = obstacle,
            Some(_) => {}
            None => drop(self.0.insert(user.clone(), obstacle)),
        }
    }

    /// The decoded row of a table; `None` where it cannot be decoded and its account is left out.
    ///
    /// # Errors
    /// Every error that does not come from the row.
    pub fn decoded<T>(
        &mut self,
        user: &UserId,
        table: &str,
        row: Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        match row {
            Ok(row) => Ok(Some(row)),
            Err(StoreError::Failed(why)) => {
                self.0.insert(user.clone(), Obstacle::Unreadable(format!("{table}: {why}")));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl FromIterator<(UserId, Obstacle)> for LeftOut {
    fn from_iter<T: IntoIterator<Item = (UserId, Obstacle)>>(obstacles: T) -> Self {
        Self(obstacles.into_iter().collect())
    }
}

/// Settles batches, each in one transaction.
#[async_trait]
pub trait Ledger: Send + Sync + 'static {
    /// Loads the accounts of the batch under lock, has [`super::rule::settle`]
    /// decide, writes what it decided, and commits. Returns only after the commit.
    ///
    /// Without `wait_for` the transaction waits for no lock: an account whose rows, or whose
    /// API key, another transaction holds is left out. With the lock of an API key, the
    /// transaction first waits for that lock while it holds nothing, and then for no other.
    /// With the lock of an account, which is the only one of the batch, the transaction waits
    /// for every lock that it needs. So no two transactions wait for each other.
    ///
    /// Settling the same batch again is safe: what had committed is found by its
    /// ids and answered as it was.
    ///
    /// # Errors
    /// [`StoreError::Conflict`]: nothing was written.
    /// [`StoreError::Unavailable`]: the outcome is unknown; settle again to learn it.
    /// [`StoreError::Failed`]: nothing was written, and it would fail again.
    async fn settle(&self, batch: &Batch, wait_for: Option<&Lock>) -> Result<SettledBatch, StoreError>;
}
