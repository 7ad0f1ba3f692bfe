//! CheckQuota: would a call be covered? Decides by the rule that charges it.

use std::sync::Arc;

use futures_util::future::join;

use super::{
    account::Accounts,
    catalog::Catalog,
    charge::{self, Funds},
    error::{Error, Invalid, Result},
    ids::{ApiKeyId, UserId},
    key_quota::{self, KeyQuotaStore, Take},
    money::Money,
    rate_limit::RateGuard,
    record::Usage,
};

/// A call that may be made.
#[derive(Debug, Clone)]
pub struct Check {
    pub user: UserId,
    pub service: String,
    pub count: u32,
    /// Of all units if none were free; the service's price when absent.
    pub cost: Option<Money>,
    pub api_key: Option<ApiKeyId>,
    /// As estimated.
    pub usage: Usage,
}

/// The answer, with what it was decided on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub decision: Decision,
    /// Before the call.
    pub free_remaining: u32,
    pub balance: Money,
    /// What the call would take from the balance.
    pub amount: Money,
    /// Calls that are left of this day and this month, where they are capped.
    pub daily_remaining: Option<u32>,
    pub monthly_remaining: Option<u32>,
}

/// Who pays, or what forbids the call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The free quota covers all of it.
    Free,
    /// A part would be paid.
    Balance,
    /// The error that the charge would meet.
    Refused(Error),
}

/// The quota check.
pub struct Quotas {
    accounts: Arc<Accounts>,
    key_quotas: Arc<dyn KeyQuotaStore>,
    rates: Arc<RateGuard>,
    catalog: Arc<Catalog>,
}

impl Quotas {
    pub fn new(
        accounts: Arc<Accounts>,
        key_quotas: Arc<dyn KeyQuotaStore>,
        rates: Arc<RateGuard>,
        catalog: Arc<Catalog>,
    ) -> Self {
        Self { accounts, key_quotas, rates, catalog }
    }

    /// Decides on the committed state, changing nothing but opening a new account and
    /// counting the request.
    ///
    /// # Errors
    /// [`Error::UnknownService`], [`Error::Invalid`], [`Error::Overloaded`],
    /// [`Error::Internal`]. A call that is not covered is a verdict, not an error.
    pub async fn check(&self, check: &Check) -> Result<Verdict> {
        let (service, plan) = self.catalog.find(&check.service)?;
        let cost = full_cost(check.cost, plan.price, check.count)?;
        let rates = self.rates.take(&check.user, check.api_key.as_ref());
        let (within_rates, account) = join(rates, self.accounts.get(&check.user)).await;
        let (account, now) = account?;
        let free_remaining = account.quotas.get(service).map_or(0, |quota| quota.remaining());
        let funds = Funds { free_remaining, available: account.balance.available() };
        let (daily_remaining, monthly_remaining) = account.requests.map_or((None, None), |requests| requests.left(now));
        let capped = account.requests.map_or(Ok(()), |requests| requests.check(now));
        let mut covered = within_rates.and(capped).and_then(|()| charge::charge(check.count, cost, funds));
        if let (Ok(split), Some(key)) = (&covered, &check.api_key) {
            let quotas = self.key_quotas.key_quotas(key).await?;
            let take = Take::call(Some(check.usage), split.amount);
            covered = key_quota::check(&quotas, key, take, now).and(covered);
        }
        let decision = match covered {
            Ok(split) if split.paid == 0 => Decision::Free,
            Ok(_) => Decision::Balance,
            Err(refusal) => Decision::Refused(refusal),
        };
        Ok(Verdict {
            decision,
            free_remaining,
            balance: account.balance.amount,
            amount: charge::split(check.count, cost, free_remaining).amount,
            daily_remaining,
            monthly_remaining,
        })
    }
}

/// What all units of a call cost if none were free: the caller's figure, else the price.
pub fn full_cost(requested: Option<Money>, price: Money, count: u32) -> Result<Money> {
    requested
        .or_else(|| price.times(count))
        .ok_or_else(|| Invalid::new("count", format!("times the price {price} is more than {}", Money::MAX)).into())
}
