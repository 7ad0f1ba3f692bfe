//! A user's account: the balance and one month's free quotas.

pub mod catalog;
pub mod policy;
pub mod users;

use std::collections::BTreeMap;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use self::catalog::Catalog;
use super::{
    limits::caps::Requests,
    values::{
        calendar::Month,
        error::StoreError,
        ids::{ServiceName, UserId},
        money::Money,
    },
};

/// Free units of one service in one month.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quota {
    pub total: u32,
    pub used: u32,
    /// Reserved, neither used nor freed yet.
    pub held: u32,
}

impl Quota {
    pub fn remaining(&self) -> u32 {
        self.total.saturating_sub(self.used).saturating_sub(self.held)
    }
}

/// Prepaid money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Balance {
    /// Below zero when more was delivered than it covered.
    pub amount: Money,
    /// The part that is reserved.
    pub held: Money,
    /// Grows with every change of the account.
    pub version: i64,
}

impl Balance {
    /// What may be spent.
    pub fn available(&self) -> Money {
        self.amount.minus(self.held)
    }
}

/// The committed state of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub balance: Balance,
    pub quotas: BTreeMap<ServiceName, Quota>,
    /// Where the user has caps.
    pub requests: Option<Requests>,
}

impl Account {
    /// Whether every service of the catalog has its quota row.
    pub fn is_open_for(&self, catalog: &Catalog) -> bool {
        catalog.services().all(|service| self.quotas.contains_key(service))
    }
}

/// Where accounts are kept.
#[async_trait]
pub trait AccountStore: Send + Sync + 'static {
    /// The account with its quotas of `month`; `None` when the user has none.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn account(&self, user: &UserId, month: Month) -> std::result::Result<Option<Account>, StoreError>;

    /// Those of the next thousand users behind `after`, or of the first thousand, whose
    /// account changed since an instant.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn active_users(
        &self,
        since: DateTime<Utc>,
        after: Option<&UserId>,
    ) -> std::result::Result<ActiveUsers, StoreError>;
}

/// A page of users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveUsers {
    pub users: Vec<UserId>,
    /// Behind which the next page begins; `None` at the end.
    pub next: Option<UserId>,
}

/// Users that are looked at for one page.
pub const ACTIVE_PAGE: usize = 1_000;

impl ActiveUsers {
    /// From a page of users in order, with when their accounts last changed.
    pub fn of_page(page: Vec<(UserId, DateTime<Utc>)>, since: DateTime<Utc>) -> Self {
        let next = if page.len() < ACTIVE_PAGE { None } else { page.last().map(|(user, _)| user.clone()) };
        let active = page.into_iter().filter(|(_, changed)| *changed >= since);
        Self { users: active.map(|(user, _)| user).collect(), next }
    }
}
