//! Reads accounts for requests, and opens those that are new.

use std::sync::Arc;

use super::engine::Engine;
use crate::biz::{
    account::{Account, AccountStore, catalog::Catalog},
    values::{
        calendar::{BillingTime, Calendar},
        error::{Error, Result},
        ids::UserId,
    },
};

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

    /// Opens the account ahead of the first call; tells whether it is new.
    ///
    /// # Errors
    /// [`Error::Overloaded`], [`Error::Internal`].
    pub async fn initialize(&self, user: &UserId) -> Result<bool> {
        self.engine.open(user.clone()).await
    }
}
