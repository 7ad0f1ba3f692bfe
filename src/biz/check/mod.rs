//! CheckQuota: whether a call would be covered. It decides by the rule of
//! [`super::charge`], which also charges the call.

pub mod cache;
pub mod refusals;

use std::sync::Arc;

use futures_util::future::join;

use super::{
    account::{
        Quota,
        catalog::{Catalog, Price},
    },
    charge::{
        self, Funds, Split,
        quote::{Ask, ESTIMATE, Quote, Quoter},
    },
    check::{
        cache::{Need, ReadModel, Trust, View, entry::AccountEntry},
        refusals::Refusals,
    },
    limits::{
        caps::Caps,
        key_quota::{self, Take},
        rate_limit::RateGuard,
    },
    settlement::{
        posting::{Charge, RecordIds},
        transaction::ChargeContent,
    },
    values::{
        calendar::{BillingTime, Calendar},
        error::{Error, Result},
        ids::{ApiKeyId, ModelName, PlanName, ServiceName, ServiceTier, TraceId, UserId},
        money::Money,
    },
};
use crate::biz::values::usage::Usage;

/// A call to check.
#[derive(Debug, Clone)]
pub struct Check {
    pub user: UserId,
    pub service: String,
    pub count: u32,
    /// Cost of all units if none were free; the price of the service when absent.
    pub cost: Option<Money>,
    pub api_key: Option<ApiKeyId>,
    pub model: Option<ModelName>,
    pub service_tier: Option<ServiceTier>,
    /// Estimated tokens.
    pub usage: Option<Usage>,
}

/// The decision and the state that it is based on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub decision: Decision,
    /// Free units before the call.
    pub free_remaining: u64,
    pub balance: Money,
    /// The balance without what is held.
    pub available: Money,
    /// The amount that the call would charge to the balance.
    pub amount: Money,
    /// Calls left today and this month; `None` without a cap.
    pub daily_remaining: Option<u32>,
    pub monthly_remaining: Option<u32>,
    /// All free units of the month.
    pub free_total: u64,
    pub caps: Caps,
    /// The time of the decision.
    pub at: BillingTime,
    /// The version of the account.
    pub version: i64,
    /// Whether subscribers know that the account is exhausted in this month.
    pub is_exhausted: bool,
}

/// The source of the payment, or the refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The free quota covers all of it.
    Free,
    /// The balance pays for a part or all of it.
    Balance,
    /// The error that the charge would return.
    Refused(Error),
}

/// The quota check.
pub struct Quotas {
    accounts: Arc<ReadModel>,
    rates: Arc<RateGuard>,
    catalog: Arc<Catalog>,
    quoter: Arc<Quoter>,
    calendar: Arc<Calendar>,
    refusals: Refusals,
}

/// An account is far from its limits if it could make the same call this many times. A near
/// entry may be a fifth of a second old; other processes charge far fewer calls in that time.
const FAR: u32 = 1_000;

/// Two reads, because the month may turn while the account is opened.
const READS: u32 = 2;

impl Quotas {
    pub fn new(
        accounts: Arc<ReadModel>,
        rates: Arc<RateGuard>,
        catalog: Arc<Catalog>,
        quoter: Arc<Quoter>,
        (calendar, refusals): (Arc<Calendar>, Refusals),
    ) -> Self {
        Self { accounts, rates, catalog, quoter, calendar, refusals }
    }

    /// Decides on the committed state. The only changes are that a new account is opened and that
    /// the request counts toward the rate limits. If other processes charge too, the state of an
    /// account that is far from every limit may be slightly stale.
    ///
    /// # Errors
    /// [`Error::UnknownService`], [`Error::Invalid`], [`Error::Overloaded`],
    /// [`Error::Internal`]. A call that is not covered is a verdict, not an error.
    pub async fn check(&self, check: &Check) -> Result<Verdict> {
        let (service, _) = self.catalog.find(&check.service)?;
        let priced = match self.priced(check, service, None) {
            // The plan of the user may have a price where there is none.
            Err(_) if self.catalog.has_plans() => None,
            priced => Some(priced?),
        };
        // Concurrent, so that with Redis both take one round trip.
        let rates = self.rates.take(&check.user, check.api_key.as_ref());
        let (within_rates, verdict) = join(rates, self.verdict(check, service, priced)).await;
        let verdict = verdict?;
        Ok(match within_rates {
            Ok(()) => {
                if let Decision::Refused(Error::InsufficientBalance { .. }) = verdict.decision
                    && !verdict.is_exhausted
                {
                    self.refusals.note(&check.user, verdict.version, || self.call_of(check, service));
                }
                verdict
            }
            Err(refusal) => Verdict { decision: Decision::Refused(refusal), ..verdict },
        })
    }

    /// The charge that a check is about. Its ids mean nothing.
    fn call_of(&self, check: &Check, service: &ServiceName) -> Charge {
        let terms = self.catalog.service_in(None, service);
        let terms = terms.ok_or_else(|| Error::UnknownService(check.service.clone()));
        Charge {
            user: check.user.clone(),
            trace: TraceId::fresh(),
            content: ChargeContent {
                service: service.clone(),
                count: check.count,
                cost: check.cost,
                api_key: check.api_key.clone(),
                model: check.model.clone(),
                usage: None,
                estimate: check.usage,
                service_tier: check.service_tier.clone(),
            },
            is_delivered: false,
            quote: terms.and_then(|terms| self.quoter.quote(terms, ask(check, None))),
            tariff: self.catalog.has_plans().then(|| self.quoter.tariff()),
            record_ids: RecordIds::fresh(),
        }
    }

    /// Prices a check in a plan.
    fn priced(&self, check: &Check, service: &ServiceName, plan: Option<PlanName>) -> Result<Priced> {
        let terms = self.catalog.service_in(plan, service);
        let terms = terms.ok_or_else(|| Error::UnknownService(check.service.clone()))?;
        let Quote { units, cost, .. } = self.quoter.quote(terms, ask(check, plan))?;
        let list_price = match terms.price {
            Price::Unit(price) => price.times(check.count).unwrap_or(Money::MAX),
            // The cost of a call to a model has no bound, so such an account is never far.
            Price::Model(_) => Money::MAX,
        };
        Ok(Priced { units, cost, list_price })
    }

    /// `default` is the price without a plan, if there is one.
    async fn verdict(&self, check: &Check, service: &ServiceName, default: Option<Priced>) -> Result<Verdict> {
        // The plan is part of the state that the verdict is based on.
        let call = |view: &View, now| {
            let priced = match (view.account()?.balance.plan, default) {
                (None, Some(default)) => default,
                (plan, _) => self.priced(check, service, plan)?,
            };
            Ok::<_, Error>(Call { check, service, priced, now })
        };
        for _ in 0..READS {
            let now = self.calendar.now();
            let need = Need { user: &check.user, key: check.api_key.as_ref(), service, month: now.month };
            if let Some((view, trust)) = self.accounts.near(need).await
                && let Some(verdict) = call(&view, now)?.decide_near(&view, trust)?
            {
                self.accounts.answered_near();
                return Ok(verdict);
            }
            // Boxed, because its future is ten times as large as the rest of a check, and most checks never need it.
            let view = Box::pin(self.accounts.read(need)).await?;
            if need.is_met_by(&view) {
                return call(&view, now)?.decide(&view);
            }
        }
        Err(Error::Internal(format!("account of {} has no quota of this month after it was opened", check.user)))
    }
}

/// The question for the price of a check.
fn ask(check: &Check, plan: Option<PlanName>) -> Ask<'_> {
    Ask {
        plan,
        count: check.count,
        cost: check.cost,
        model: check.model.as_ref(),
        service_tier: check.service_tier.as_ref(),
        usage: check.usage,
        tokens_field: ESTIMATE,
    }
}

/// The price of a check.
#[derive(Debug, Clone, Copy)]
struct Priced {
    units: u32,
    /// Cost of all units if none were free.
    cost: Money,
    /// Cost of the units at the price of the service. Other calls may cost this much, even if the
    /// caller gives a lower cost for this one.
    list_price: Money,
}

/// A check with its price and the time of the decision.
struct Call<'c> {
    check: &'c Check,
    service: &'c ServiceName,
    priced: Priced,
    now: BillingTime,
}

impl Call<'_> {
    /// The verdict on a near entry; `None` if that entry is not reliable enough.
    fn decide_near(&self, view: &View, trust: Trust) -> Result<Option<Verdict>> {
        let verdict = self.decide(view)?;
        let is_sure = match trust {
            Trust::Always => true,
            Trust::WhileFar(_) => self.is_far(view, &verdict)?,
        };
        Ok(is_sure.then_some(verdict))
    }

    /// Whether the verdict would be the same for [`FAR`] such calls together.
    fn is_far(&self, view: &View, verdict: &Verdict) -> Result<bool> {
        let counts = [verdict.daily_remaining, verdict.monthly_remaining];
        if counts.into_iter().flatten().any(|left| left < FAR) {
            return Ok(false);
        }
        let (Some(count), Some(cost)) =
            (self.priced.units.checked_mul(FAR), self.priced.cost.max(self.priced.list_price).times(FAR))
        else {
            return Ok(false);
        };
        let tokens = Take::call(self.check.usage, Money::ZERO).tokens.saturating_mul(FAR.into());
        let all = self.covered(view, (count, cost), Take { requests: FAR.into(), tokens, amount: Money::ZERO })?;
        Ok(match (&verdict.decision, &all) {
            (Decision::Refused(_), _) | (_, Err(_)) => false,
            (Decision::Free, Ok(split)) => split.paid == 0,
            (Decision::Balance, Ok(split)) => split.free == 0,
        })
    }

    fn decide(&self, view: &View) -> Result<Verdict> {
        let account = view.account()?;
        let quota = self.quota(account);
        let free_remaining = quota.map_or(0, |quota| quota.remaining());
        let (daily_remaining, monthly_remaining) =
            account.requests.map_or((None, None), |requests| requests.left(self.now));
        let take = Take::call(self.check.usage, Money::ZERO);
        let decision = match self.covered(view, (self.priced.units, self.priced.cost), take)? {
            Ok(split) if split.paid == 0 => Decision::Free,
            Ok(_) => Decision::Balance,
            Err(refusal) => Decision::Refused(refusal),
        };
        Ok(Verdict {
            decision,
            free_remaining,
            balance: account.balance.amount,
            available: account.balance.available(),
            amount: charge::split(self.priced.units, self.priced.cost, free_remaining).amount,
            daily_remaining,
            monthly_remaining,
            free_total: quota.map_or(0, |quota| quota.total),
            caps: account.requests.map_or(Caps::default(), |requests| requests.caps),
            at: self.now,
            version: account.balance.version,
            is_exhausted: account.balance.exhausted.is_some_and(|last| last >= self.now.month),
        })
    }

    /// The free quota. It is present, because [`Need::is_met_by`] asks for it.
    fn quota(&self, account: &AccountEntry) -> Option<Quota> {
        account.quota(self.now.month, self.service)
    }

    /// The split of `count` units, or the error that their charge would return. `take` is their
    /// use of the API key's requests and tokens.
    fn covered(&self, view: &View, (count, cost): (u32, Money), take: Take) -> Result<Result<Split>> {
        let account = view.account()?;
        let funds = Funds {
            free_remaining: self.quota(account).map_or(0, |quota| quota.remaining()),
            available: account.balance.available(),
        };
        let active = account.balance.check_status();
        let capped = active.and_then(|()| account.requests.map_or(Ok(()), |requests| requests.check(self.now)));
        let mut covered = capped.and_then(|()| charge::charge(count, cost, funds));
        if let (Ok(split), Some(key), Some(quotas)) = (&covered, &self.check.api_key, view.key_quotas()) {
            let take = Take { amount: split.amount, ..take };
            covered = key_quota::check(quotas, key, take, self.now).and(covered);
        }
        Ok(covered)
    }
}
