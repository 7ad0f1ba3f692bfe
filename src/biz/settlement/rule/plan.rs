//! The plan of a user.

use std::borrow::Cow;

use super::{Book, NewPlan};
use crate::biz::{
    charge::quote::{Ask, ESTIMATE, Quote},
    settlement::{
        audit_events,
        posting::{Charge, Outcome, PlanChange},
    },
    values::error::Error,
};

impl Book<'_> {
    /// Sets the plan. It prices the next call. The plan that the user has already changes nothing.
    pub(super) fn set_plan(&mut self, request: &PlanChange) -> Result<Outcome, Error> {
        if self.state.audit_events.contains(&request.call.id) {
            // As for a status.
            return Ok(Outcome::PlanSet { changed: true });
        }
        let balance = self
            .state
            .balances
            .get_mut(&request.user)
            .ok_or_else(|| Error::Internal(format!("the balance of {} was not loaded", request.user)))?;
        if balance.plan == request.plan {
            return Ok(Outcome::PlanSet { changed: false });
        }
        let before = std::mem::replace(&mut balance.plan, request.plan);
        self.state.audit_events.insert(request.call.id);
        self.audit_events.push(audit_events::of_plan(request, before, self.batch.at.utc));
        self.changed.insert(request.user.clone());
        self.changed_plans.insert(request.user.clone());
        Ok(Outcome::PlanSet { changed: true })
    }

    /// The changed plans, each with its free quotas.
    pub(super) fn new_plans(&self) -> Vec<NewPlan> {
        let of = |user| {
            let plan = self.state.balances.get(user)?.plan;
            let services = self.batch.catalog.services_in(plan);
            let free_quotas = services.map(|(service, terms)| (service.clone(), terms.free_quota)).collect();
            Some(NewPlan { user: user.clone(), plan, free_quotas })
        };
        self.changed_plans.iter().filter_map(of).collect()
    }

    /// The quote of a call, in the plan of its user.
    pub(super) fn quote<'q>(&self, call: &'q Charge) -> Result<Cow<'q, Quote>, Error> {
        let plan = self.state.balances.get(&call.user).and_then(|balance| balance.plan);
        let (Some(plan), Some(tariff)) = (plan, &call.tariff) else {
            return call.quote.as_ref().map(Cow::Borrowed).map_err(Error::clone);
        };
        let content = &call.content;
        let terms = self.batch.catalog.service_in(Some(plan), &content.service);
        let terms = terms.ok_or_else(|| Error::UnknownService(content.service.to_string()))?;
        let ask = Ask {
            plan: Some(plan),
            count: content.count,
            cost: content.cost,
            model: content.model.as_ref(),
            service_tier: content.service_tier.as_ref(),
            usage: content.usage.or(content.estimate),
            tokens_field: if content.estimate.is_some() { ESTIMATE } else { "usage" },
        };
        tariff.quote(terms, ask).map(Cow::Owned)
    }
}
