//! The obstacles of a settlement: locks that other transactions hold, and rows that cannot be
//! decoded.

use std::collections::BTreeMap;

use crate::biz::values::{
    error::StoreError,
    ids::{ApiKeyId, UserId},
};

/// A lock that one transaction holds and others need.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lock {
    /// The rows of an account.
    Account(UserId),
    /// The quotas of an API key.
    ApiKey(ApiKeyId),
}

impl Lock {
    /// Its kind, for logs, which name no account above the level debug.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Account(_) => "account",
            Self::ApiKey(_) => "API key",
        }
    }
}

/// The reason why a transaction leaves an account out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// Another transaction holds this lock.
    Locked(Lock),
    /// A stored row cannot be decoded. The text names the table and the defect.
    Unreadable(String),
}

/// The accounts that a transaction leaves out. The other accounts of the batch are settled.
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

    /// Leaves an account out. Keeps the first obstacle, unless the later one is the account's own
    /// lock.
    pub fn insert(&mut self, user: &UserId, obstacle: Obstacle) {
        let is_own_lock = matches!(obstacle, Obstacle::Locked(Lock::Account(_)));
        match self.0.get_mut(user) {
            Some(Obstacle::Unreadable(_)) => {}
            Some(first) if is_own_lock => *first = obstacle,
            Some(_) => {}
            None => drop(self.0.insert(user.clone(), obstacle)),
        }
    }

    /// The decoded row of a table. `None` if it cannot be decoded; its account is then left out.
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
