//! A user's account: the balance and one month's free quotas.

pub mod catalog;
pub mod policy;
pub mod quota_weights;
pub mod users;

use std::collections::BTreeMap;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use self::catalog::Catalog;
use super::{
    limits::caps::Requests,
    values::{
        account_status::AccountStatus,
        calendar::Month,
        error::{Error, StoreError},
        ids::{PlanName, ServiceName, UserId},
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

/// Prepaid money, and whether it may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Balance {
    /// The balance, holds included. Below zero if delivered work cost more than the balance.
    pub amount: Money,
    /// The sum of all holds on the balance.
    pub held: Money,
    /// Increases with every change of the account.
    pub version: i64,
    pub status: AccountStatus,
    /// `None` for the default plan.
    pub plan: Option<PlanName>,
    /// The last month in which a call was refused for money, since the last credit. Checks read it; the rule reads
    /// the watch of the account instead.
    pub exhausted: Option<Month>,
}

impl Balance {
    /// Checks that the account takes new calls and top-ups.
    ///
    /// # Errors
    /// [`Error::AccountNotActive`].
    pub fn check_status(&self) -> Result<(), Error> {
        if self.status.is_active() { Ok(()) } else { Err(Error::AccountNotActive(self.status)) }
    }

    /// The balance without the holds.
    pub fn available(&self) -> Money {
        self.amount.minus(self.held)
    }
}

/// The committed state of an account.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Account {
    pub balance: Balance,
    pub quotas: BTreeMap<ServiceName, Quota>,
    /// The request caps and the counted calls; `None` if the user has no caps.
    pub requests: Option<Requests>,
}

impl Account {
    /// Whether every service of the catalog has a quota row.
    pub fn is_open_for(&self, catalog: &Catalog) -> bool {
        catalog.services().all(|service| self.quotas.contains_key(service))
    }
}

/// Reads accounts from the database.
#[async_trait]
pub trait AccountStore: Send + Sync + 'static {
    /// The account with its quotas of `month`; `None` if the user has no account.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn account(&self, user: &UserId, month: Month) -> std::result::Result<Option<Account>, StoreError>;

    /// As [`Self::account`], for a reply that shows the account and decides nothing. By configuration
    /// it may lack the last changes of other servers.
    ///
    /// # Errors
    /// As [`Self::account`].
    async fn account_to_show(&self, user: &UserId, month: Month) -> std::result::Result<Option<Account>, StoreError> {
        self.account(user, month).await
    }

    /// Looks at the next [`ACTIVE_PAGE`] users after `after` (`None`: the first ones), and returns
    /// the users whose account has changed at or after `since`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn active_users(
        &self,
        since: DateTime<Utc>,
        after: Option<&UserId>,
    ) -> std::result::Result<ActiveUsers, StoreError>;
}

/// A page of active users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveUsers {
    pub users: Vec<UserId>,
    /// The next page begins after this user; `None` at the end.
    pub next: Option<UserId>,
}

/// Users that one page looks at, active or not.
pub const ACTIVE_PAGE: usize = 1_000;

impl ActiveUsers {
    /// Filters a page of users in key order, each with the time of the account's last change.
    pub fn of_page(page: Vec<(UserId, DateTime<Utc>)>, since: DateTime<Utc>) -> Self {
        let next = if page.len() < ACTIVE_PAGE { None } else { page.last().map(|(user, _)| user.clone()) };
        let active = page.into_iter().filter(|(_, changed)| *changed >= since);
        Self { users: active.map(|(user, _)| user).collect(), next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_units_and_amounts_are_not_there_to_be_used() {
        let quota = |used, held| Quota { total: 9, used, held }.remaining();
        // A quota that was lowered below its use has zero units left.
        assert_eq!([quota(0, 0), quota(3, 4), quota(9, 0), quota(9, 1), quota(10, 0)], [9, 2, 0, 0, 0]);
        let balance = Balance { amount: Money::from_micros(5), held: Money::from_micros(7), ..Balance::default() };
        assert_eq!(balance.available(), Money::from_micros(-2));
    }

    #[test]
    fn a_page_of_users_has_those_that_changed_and_the_next_begins_behind_its_last() {
        let page = |users: usize| {
            let user = |number: usize| UserId::from_stored(format!("u{number}"));
            (0..users)
                .map(move |number| (user(number), DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(number as i64)))
        };
        let since = DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(998);
        let short = ActiveUsers::of_page(page(ACTIVE_PAGE - 1).collect(), since);
        assert_eq!((short.users.len(), short.next), (1, None));
        let full = ActiveUsers::of_page(page(ACTIVE_PAGE).collect(), since);
        assert_eq!((full.users.len(), full.next), (2, Some(UserId::from_stored("u999"))));
    }
}
