//! A user's account: the balance and one month's free quotas.

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    calendar::{BillingTime, Calendar, Month},
    catalog::Catalog,
    error::{Error, Result, StoreError},
    ids::{ServiceName, UserId},
    money::Money,
};

/// Free units of one service in one month.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    pub service: ServiceName,
    pub total: u32,
    pub used: u32,
}

impl Quota {
    pub fn remaining(&self) -> u32 {
        self.total.saturating_sub(self.used)
    }
}

/// The committed state of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub balance: Money,
    /// Grows with every change of the account.
    pub version: i64,
    /// By service name.
    pub quotas: Vec<Quota>,
}

impl Account {
    pub fn quota(&self, service: &ServiceName) -> Option<&Quota> {
        self.quotas.iter().find(|quota| quota.service == *service)
    }

    /// Whether every service of the catalog has its quota row.
    pub fn is_open_for(&self, catalog: &Catalog) -> bool {
        catalog.services().all(|service| self.quota(service).is_some())
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

    /// Creates what is missing of the users' accounts: a zero balance, and the
    /// quota rows of `at.month` for every service of the catalog. Existing rows
    /// stay as they are. Concurrent calls do not collide. Tells how many accounts
    /// are new.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn open(&self, users: &[UserId], at: BillingTime, catalog: &Catalog) -> std::result::Result<u64, StoreError>;
}

/// Reads accounts, and opens them on first sight.
pub struct Accounts {
    store: Arc<dyn AccountStore>,
    catalog: Arc<Catalog>,
    calendar: Arc<Calendar>,
}

impl Accounts {
    pub fn new(store: Arc<dyn AccountStore>, catalog: Arc<Catalog>, calendar: Arc<Calendar>) -> Self {
        Self { store, catalog, calendar }
    }

    /// The user's account this month, with a quota for every service. A new user
    /// gets an empty account.
    ///
    /// # Errors
    /// [`Error::Overloaded`], [`Error::Internal`].
    pub async fn get(&self, user: &UserId) -> Result<(Account, Month)> {
        let at = self.calendar.now();
        if let Some(account) = self.store.account(user, at.month).await?
            && account.is_open_for(&self.catalog)
        {
            return Ok((account, at.month));
        }
        self.open(user, at).await?;
        match self.store.account(user, at.month).await? {
            Some(account) => Ok((account, at.month)),
            None => Err(Error::Internal(format!("account of {user} is not there after opening it"))),
        }
    }

    /// Opens the account ahead of the first call; tells whether it is new.
    ///
    /// # Errors
    /// [`Error::Overloaded`], [`Error::Internal`].
    pub async fn initialize(&self, user: &UserId) -> Result<bool> {
        self.open(user, self.calendar.now()).await
    }

    async fn open(&self, user: &UserId, at: BillingTime) -> Result<bool> {
        let (store, catalog, user) = (self.store.clone(), self.catalog.clone(), user.clone());
        // In a task that no client disconnect cancels: a transaction that is dropped
        // while it begins can stay open on a pooled connection.
        let opening = tokio::spawn(async move { store.open(&[user], at, &catalog).await });
        let opened = opening.await.map_err(|panic| Error::Internal(panic.to_string()))??;
        Ok(opened > 0)
    }
}
