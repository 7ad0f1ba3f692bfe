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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_units_and_amounts_are_not_there_to_be_used() {
        let quota = |used, held| Quota { total: 9, used, held }.remaining();
        // A quota that was lowered has nothing left.
        assert_eq!([quota(0, 0), quota(3, 4), quota(9, 0), quota(9, 1), quota(10, 0)], [9, 2, 0, 0, 0]);
        let balance = Balance { amount: Money::from_micros(5), held: Money::from_micros(7), version: 0 };
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
