//! Counts the users with a low balance or a low free quota. A count reads the accounts, so one process counts, and
//! stores the counts for all.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::biz::values::{calendar::Month, error::StoreError, ids::ServiceName, money::Money};

/// A share of a whole, in hundredths of a percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Percent(u16);

impl Percent {
    /// 100 %, in hundredths of a percent.
    pub const WHOLE: u16 = 10_000;

    /// A number above [`Percent::WHOLE`] becomes [`Percent::WHOLE`].
    pub const fn from_hundredths(hundredths: u16) -> Self {
        Self(if hundredths > Self::WHOLE { Self::WHOLE } else { hundredths })
    }

    /// Hundredths of a percent, 0 to [`Percent::WHOLE`].
    pub const fn hundredths(self) -> u16 {
        self.0
    }
}

/// An account below a threshold is low; an account at a threshold is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Compared with the balance without its holds.
    pub balance: Money,
    /// Compared with the part of a service's monthly free quota that is neither used nor held.
    pub quota: Percent,
}

impl Thresholds {
    /// Whether an account with this free part of the balance is low.
    pub fn is_low_balance(self, available: Money) -> bool {
        available < self.balance
    }

    /// Whether a free quota with so many units left is low.
    pub fn is_low_quota(self, left: i64, total: i64) -> bool {
        i128::from(left) * i128::from(Percent::WHOLE) < i128::from(total) * i128::from(self.quota.hundredths())
    }
}

/// The number of low users at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LowCounts {
    pub balance: u64,
    /// Users by the service whose quota is low. Users with a free quota of zero do not count.
    /// Services without low users may be absent, and legacy services may be present.
    pub quotas: BTreeMap<ServiceName, u64>,
}

impl FromIterator<(Option<ServiceName>, u64)> for LowCounts {
    /// A pair with a service counts the users whose quota of it is low; the pair without a service
    /// counts the users whose balance is low.
    fn from_iter<I: IntoIterator<Item = (Option<ServiceName>, u64)>>(counted: I) -> Self {
        let mut counts = Self::default();
        for (service, users) in counted {
            match service {
                Some(service) => drop(counts.quotas.insert(service, users)),
                None => counts.balance = users,
            }
        }
        counts
    }
}

/// The outcome of the last count, stored for all processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCounts {
    /// The last count that succeeded; `None` if each one has failed.
    pub counted: Option<Counted>,
    /// The time of the next count.
    pub due_at: DateTime<Utc>,
}

/// The counts of an instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    pub counts: LowCounts,
    pub at: DateTime<Utc>,
}

/// The basis of a count: the month and the thresholds, in the stored form of at most 64 ASCII characters. Processes
/// with other thresholds count for themselves.
pub fn basis(thresholds: Thresholds, month: Month) -> String {
    format!("{month} {} {}", thresholds.balance, thresholds.quota.hundredths())
}

/// Counts low accounts in the database.
#[async_trait]
pub trait LowBalanceStore: Send + Sync + 'static {
    /// Counts the low accounts, with the quotas of `month`. The query reads all accounts, so the
    /// database ends it after `within`, even if the caller has gone. No other query waits for it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], also when the query takes longer than `within`;
    /// [`StoreError::Failed`].
    async fn count_low(&self, thresholds: Thresholds, month: Month, within: Duration) -> Result<LowCounts, StoreError>;

    /// The stored outcome of the last count of a [`basis`].
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn stored_counts(&self, basis: &str) -> Result<Option<StoredCounts>, StoreError>;

    /// Stores the outcome of a count of a [`basis`] in place of the last one, and deletes those of other bases whose
    /// next count is more than a day overdue.
    ///
    /// # Errors
    /// [`StoreError::Conflict`], [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn store_counts(&self, basis: &str, stored: &StoredCounts) -> Result<(), StoreError>;
}
