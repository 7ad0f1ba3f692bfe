//! Low accounts: how many users have little balance or little free quota left. Nothing is
//! kept of it; the accounts themselves are counted.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;

use crate::biz::values::{calendar::Month, error::StoreError, ids::ServiceName, money::Money};

/// A share of a whole, in hundredths of a percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Percent(u16);

impl Percent {
    /// Of the whole itself.
    pub const WHOLE: u16 = 10_000;

    /// The whole for more than that.
    pub const fn from_hundredths(hundredths: u16) -> Self {
        Self(if hundredths > Self::WHOLE { Self::WHOLE } else { hundredths })
    }

    /// From 0 to [`Percent::WHOLE`].
    pub const fn hundredths(self) -> u16 {
        self.0
    }
}

/// Below what an account is low; at it, it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Of the balance that is not held.
    pub balance: Money,
    /// Of a service's free quota of the month: what is neither used nor held.
    pub quota: Percent,
}

/// How many users are low, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LowCounts {
    pub balance: u64,
    /// By the service whose quota is low, in which whoever has none to begin with does not
    /// count. Services without such users may be absent, and legacy services present.
    pub quotas: BTreeMap<ServiceName, u64>,
}

impl FromIterator<(Option<ServiceName>, u64)> for LowCounts {
    /// Users by the service whose quota is low, and by balance where there is no service.
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

/// Where accounts are counted.
#[async_trait]
pub trait LowBalanceStore: Send + Sync + 'static {
    /// Counts the accounts that are low, by their quotas of `month`. It reads all of them,
    /// so the database itself ends it after `within`, also when the caller has gone.
    /// Nothing else waits for it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], also when it took too long; [`StoreError::Failed`].
    async fn count_low(&self, thresholds: Thresholds, month: Month, within: Duration) -> Result<LowCounts, StoreError>;
}
