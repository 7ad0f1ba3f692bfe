//! The billable services, each with its price and its free units a month.

use std::{collections::BTreeMap, sync::Arc};

use crate::biz::{
    account::{policy::Policy, quota_weights::QuotaWeights},
    events::alerts::Alerts,
    values::{
        error::Error,
        ids::{PlanName, ServiceName},
        invalid::Invalid,
        money::Money,
    },
};

/// Price, free quota and policy of one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceTerms {
    pub price: Price,
    /// Units a user gets free each month.
    pub free_quota: u64,
    /// The policy for its reservations.
    pub policy: Policy,
}

/// The price of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Price {
    /// A fixed price per unit.
    Unit(Money),
    /// The tokens of the call, at the prices of its model.
    Model(QuotaUnit),
}

/// The unit of a service, which its free quota counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QuotaUnit {
    /// Calls: the `count` of the request.
    #[default]
    Calls,
    /// Tokens: the sum of input and output, unless some parts of a call have other weights.
    Tokens(QuotaWeights),
}

impl QuotaUnit {
    /// The sum of input and output.
    pub const TOKENS: Self = Self::Tokens(QuotaWeights::ALL_TOKENS);
}

/// All services, by name. A call of any other service is an error, never free.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    services: BTreeMap<ServiceName, ServiceTerms>,
    /// The services that differ, by the plan of the user.
    plans: BTreeMap<PlanName, BTreeMap<ServiceName, ServiceTerms>>,
    /// The alerts of users without their own.
    alerts: Arc<Alerts>,
}

impl Catalog {
    pub fn new(services: impl IntoIterator<Item = (ServiceName, ServiceTerms)>) -> Self {
        Self { services: services.into_iter().collect(), plans: BTreeMap::new(), alerts: Arc::default() }
    }

    /// Adds a plan of users, with the services that differ.
    pub fn add_plan(&mut self, name: PlanName, services: impl IntoIterator<Item = (ServiceName, ServiceTerms)>) {
        self.plans.insert(name, services.into_iter().collect());
    }

    /// Sets the alerts of users without their own.
    pub fn set_alerts(&mut self, alerts: Alerts) {
        self.alerts = Arc::new(alerts);
    }

    pub fn alerts(&self) -> &Arc<Alerts> {
        &self.alerts
    }

    /// Whether users may have a plan other than the default.
    pub fn has_plans(&self) -> bool {
        !self.plans.is_empty()
    }

    /// The plans beside the default.
    pub fn plans(&self) -> impl Iterator<Item = PlanName> {
        self.plans.keys().copied()
    }

    /// A service in a plan. A plan that is no longer configured counts as the default.
    pub fn service_in(&self, plan: Option<PlanName>, service: &ServiceName) -> Option<ServiceTerms> {
        let differs = plan.and_then(|plan| self.plans.get(&plan)).and_then(|services| services.get(service));
        differs.or_else(|| self.services.get(service)).copied()
    }

    /// All services in a plan.
    pub fn services_in(&self, plan: Option<PlanName>) -> impl Iterator<Item = (&ServiceName, ServiceTerms)> {
        self.services.iter().map(move |(name, of_all)| (name, self.service_in(plan, name).unwrap_or(*of_all)))
    }

    /// Finds a service by its name.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty name, [`Error::UnknownService`] for a service that is not
    /// configured.
    pub fn find(&self, name: &str) -> Result<(&ServiceName, ServiceTerms), Error> {
        if name.is_empty() {
            return Err(Invalid::new("service_name", "is required").into());
        }
        match self.services.iter().find(|(known, _)| known.as_str() == name) {
            Some((known, terms)) => Ok((known, *terms)),
            None => Err(Error::UnknownService(name.chars().take(64).collect())),
        }
    }

    /// The policy of a service; the default for a service that is no longer configured.
    pub fn policy(&self, service: &ServiceName) -> Policy {
        self.services.get(service).map(|terms| terms.policy).unwrap_or_default()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&ServiceName, ServiceTerms)> {
        self.services.iter().map(|(name, terms)| (name, *terms))
    }

    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.services.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::biz::account::policy::AboveHold;

    #[test]
    fn a_service_is_found_by_its_name_and_no_other_is_free() {
        let service = ServiceName::from_stored("asset");
        let policy = Policy { above_hold: AboveHold::Cap, ..Policy::default() };
        let terms = ServiceTerms { price: Price::Unit("0.05".parse().unwrap()), free_quota: 7, policy };
        let catalog = Catalog::new([(service.clone(), terms)]);
        assert_eq!(catalog.find("asset"), Ok((&service, terms)));
        assert_eq!(catalog.find("Asset"), Err(Error::UnknownService("Asset".into())));
        assert_eq!(catalog.find("").unwrap_err().to_string(), "service_name: is required");
        assert_eq!(catalog.find(&"x".repeat(65)), Err(Error::UnknownService("x".repeat(64))));
        assert_eq!(catalog.iter().collect::<Vec<_>>(), [(&service, terms)]);
        assert_eq!(catalog.services().collect::<Vec<_>>(), [&service]);
        let pro = PlanName::from_stored("pro");
        let differs = ServiceTerms { free_quota: 9, ..terms };
        let mut planned = catalog.clone();
        planned.add_plan(pro, [(service.clone(), differs)]);
        assert_eq!((catalog.has_plans(), planned.has_plans()), (false, true));
        assert_eq!(planned.service_in(Some(pro), &service), Some(differs));
        assert_eq!(planned.services_in(Some(pro)).collect::<Vec<_>>(), [(&service, differs)]);
        for other in [None, Some(PlanName::from_stored("gone"))] {
            assert_eq!(planned.service_in(other, &service), Some(terms));
        }
        // A service that is no longer configured may still have reservations.
        assert_eq!(catalog.policy(&service), policy);
        assert_eq!(catalog.policy(&ServiceName::from_stored("gone")), Policy::default());
    }
}
