//! The services that can be billed: what a unit costs and how many a month are free.

use std::collections::BTreeMap;

use crate::biz::{
    account::policy::Policy,
    values::{error::Error, ids::ServiceName, invalid::Invalid, money::Money},
};

/// Price and free quota of one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    pub price: Price,
    /// Units a user gets free each month.
    pub free_quota: u32,
    /// What becomes of its reservations.
    pub policy: Policy,
}

/// How the calls of a service are priced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Price {
    /// Each unit alike.
    Unit(Money),
    /// By the tokens of a call, at the prices of its model.
    Model(QuotaUnit),
}

/// What the units of a service are, and so what its free quota counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QuotaUnit {
    /// As many as the request says.
    #[default]
    Calls,
    /// Input and output together.
    Tokens,
}

/// All services, by name. A service that is not in here is an error, never free.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog(BTreeMap<ServiceName, Plan>);

impl Catalog {
    pub fn new(plans: impl IntoIterator<Item = (ServiceName, Plan)>) -> Self {
        Self(plans.into_iter().collect())
    }

    /// # Errors
    /// [`Error::Invalid`] for a name that cannot be one, [`Error::UnknownService`]
    /// for one that is not configured.
    pub fn find(&self, name: &str) -> Result<(&ServiceName, Plan), Error> {
        if name.is_empty() {
            return Err(Invalid::new("service_name", "is required").into());
        }
        match self.0.iter().find(|(known, _)| known.as_str() == name) {
            Some((known, plan)) => Ok((known, *plan)),
            None => Err(Error::UnknownService(name.chars().take(64).collect())),
        }
    }

    /// The policy of a service; the default for one that is not configured any more.
    pub fn policy(&self, service: &ServiceName) -> Policy {
        self.0.get(service).map(|plan| plan.policy).unwrap_or_default()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&ServiceName, Plan)> {
        self.0.iter().map(|(name, plan)| (name, *plan))
    }

    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.0.keys()
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
        let plan = Plan { price: Price::Unit("0.05".parse().unwrap()), free_quota: 7, policy };
        let catalog = Catalog::new([(service.clone(), plan)]);
        assert_eq!(catalog.find("asset"), Ok((&service, plan)));
        assert_eq!(catalog.find("Asset"), Err(Error::UnknownService("Asset".into())));
        assert_eq!(catalog.find("").unwrap_err().to_string(), "service_name: is required");
        assert_eq!(catalog.find(&"x".repeat(65)), Err(Error::UnknownService("x".repeat(64))));
        assert_eq!(catalog.iter().collect::<Vec<_>>(), [(&service, plan)]);
        assert_eq!(catalog.services().collect::<Vec<_>>(), [&service]);
        // What is not configured any more may still have reservations.
        assert_eq!(catalog.policy(&service), policy);
        assert_eq!(catalog.policy(&ServiceName::from_stored("gone")), Policy::default());
    }
}
