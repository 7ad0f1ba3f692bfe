//! A user's account: the balance and one month's free quotas.

pub mod catalog;
pub mod users;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{
    account::catalog::Catalog,
    limits::caps::Requests,
    settlement::engine::Engine,
    values::{
        calendar::{BillingTime, Calendar, Month},
        error::{Error, Result, StoreError},
        ids::{ServiceName, UserId},
        money::Money,
    },
};

/// Free units of one service in one month.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quota {
    pub total: u64,
    pub used: u64,
    /// Reserved, neither used nor freed yet.
    pub held: u64,
}

impl Quota {
    pub fn remaining(&self) -> u64 {
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
#[derive(Debug, Clone, PartialEq, Eq, Default)]
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

/// Before opening, after it, and once more for a month that turned in between.
const READS: u32 = 3;

/// Reads accounts, and opens them on first sight.
pub struct Accounts {
    store: Arc<dyn AccountStore>,
    engine: Arc<Engine>,
    catalog: Arc<Catalog>,
    calendar: Arc<Calendar>,
}

impl Accounts {
    pub fn new(
        store: Arc<dyn AccountStore>,
        engine: Arc<Engine>,
        catalog: Arc<Catalog>,
        calendar: Arc<Calendar>,
    ) -> Self {
        Self { store, engine, catalog, calendar }
    }

    /// The user's account this month and when that was, with a quota for every service. A new user
    /// gets an empty account.
    ///
    /// # Errors
    /// [`Error::Overloaded`], [`Error::Internal`].
    pub async fn get(&self, user: &UserId) -> Result<(Account, BillingTime)> {
        for _ in 0..READS {
            let now = self.calendar.now();
            if let Some(account) = self.store.account(user, now.month).await?
                && account.is_open_for(&self.catalog)
            {
                return Ok((account, now));
            }
            self.engine.open(user.clone()).await?;
        }
        Err(Error::Internal(format!("account of {user} is not open after opening it")))
    }

    /// The user's account this month and when that was, as it would be opened, without opening
    /// it: a read makes no rows.
    ///
    /// # Errors
    /// [`Error::Overloaded`], [`Error::Internal`].
    pub async fn peek(&self, user: &UserId) -> Result<(Account, BillingTime)> {
        let now = self.calendar.now();
        let mut account = self.store.account(user, now.month).await?.unwrap_or_default();
        for (service, plan) in self.catalog.iter() {
            let quota = Quota { total: plan.free_quota, ..Quota::default() };
            account.quotas.entry(service.clone()).or_insert(quota);
        }
        Ok((account, now))
    }

    /// Opens the account ahead of the first call; tells whether it is new.
    ///
    /// # Errors
    /// [`Error::Overloaded`], [`Error::Internal`].
    pub async fn initialize(&self, user: &UserId) -> Result<bool> {
        self.engine.open(user.clone()).await
    }
}
