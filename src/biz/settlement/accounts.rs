//! Reads accounts for requests, and opens new ones.

use std::sync::Arc;

use super::{engine::Engine, posting::Opening};
use crate::biz::{
    account::{Account, AccountStore, Quota, catalog::Catalog},
    audit_trail::AuditedCall,
    values::{
        calendar::{BillingTime, Calendar},
        error::{Error, Result},
        ids::UserId,
    },
};

/// Most reads: before the account is opened, after it, and once more if the month turned meanwhile.
const READS: u32 = 3;

/// Reads accounts, and opens an account at its first read.
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

    /// The user's account with a quota for every service this month, and the time of the read. A new
    /// user gets an empty account.
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
            self.engine.open(Opening { user: user.clone(), call: None }).await?;
        }
        Err(Error::Internal(format!("account of {user} is not open after opening it")))
    }

    /// The account as an opening would make it, to be shown, and the time of the read. Does not open
    /// the account, so that a read inserts no rows.
    ///
    /// # Errors
    /// [`Error::Overloaded`], [`Error::Internal`].
    pub async fn peek(&self, user: &UserId) -> Result<(Account, BillingTime)> {
        let now = self.calendar.now();
        let mut account = self.store.account_to_show(user, now.month).await?.unwrap_or_default();
        for (service, plan) in self.catalog.services_in(account.balance.plan) {
            let quota = Quota { total: plan.free_quota, ..Quota::default() };
            account.quotas.entry(service.clone()).or_insert(quota);
        }
        Ok((account, now))
    }

    /// Whether the user has an account.
    ///
    /// # Errors
    /// [`Error::Overloaded`], [`Error::Internal`].
    pub async fn exists(&self, user: &UserId) -> Result<bool> {
        Ok(self.find(user).await?.is_some())
    }

    /// The account as it is stored, and the time of the read; `None` if the user has none.
    ///
    /// # Errors
    /// [`Error::Overloaded`], [`Error::Internal`].
    pub async fn find(&self, user: &UserId) -> Result<Option<(Account, BillingTime)>> {
        let now = self.calendar.now();
        Ok(self.store.account(user, now.month).await?.map(|account| (account, now)))
    }

    /// Opens the account ahead of the first call, by a call of its own. Returns whether it is new.
    ///
    /// # Errors
    /// [`Error::Overloaded`], [`Error::Internal`].
    pub async fn initialize(&self, user: &UserId, call: AuditedCall) -> Result<bool> {
        self.engine.open(Opening { user: user.clone(), call: Some(call) }).await
    }
}
