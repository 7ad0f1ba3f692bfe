//! Prices a reservation: the units and the cost of the delivered work.

use super::{
    posting::Commit,
    transaction::{Delivered, Transaction},
};
use crate::biz::{
    account::catalog::QuotaUnit,
    charge::{
        self, Split,
        prices::{PriceLine, Work, rounding},
        quote::{UNIT, calls, token_units},
    },
    values::{
        error::Error,
        ids::{ModelName, ServiceTier},
        invalid::Invalid,
        money::Money,
        usage::Usage,
    },
};

impl Transaction {
    /// The units that a commit delivers, and their cost without free quota: the cost in the commit,
    /// the cost at the pinned prices, or the unit cost of the reserve.
    ///
    /// # Errors
    /// [`Error::Invalid`] for required tokens that are missing, and above the largest amounts.
    pub fn priced(&self, delivered: &Delivered) -> Result<(u32, Money), Error> {
        let usage = delivered.usage.filter(|usage| !usage.is_empty());
        let units = match (self.quota_unit, usage) {
            (QuotaUnit::Calls, _) => delivered.count,
            (QuotaUnit::Tokens(weights), Some(usage)) => token_units("usage", usage, weights)?,
            // Without usage the estimate gives the units. The cost does not depend on them.
            (QuotaUnit::Tokens(_), None) => self.units(),
        };
        if let Some(cost) = delivered.cost {
            return Ok((units, cost));
        }
        if let Some(version) = &self.price_version {
            let usage =
                usage.ok_or_else(|| Invalid::new("usage", "is required: the reservation is priced by model"))?;
            let service_tier = self.service_tier_of(Some(delivered));
            let work = Work { usage, calls: calls(self.quota_unit, units), service_tier };
            return Ok((units, version.cost(work)?));
        }
        let reserved = self.reservation.as_ref().map_or(Money::ZERO, |reservation| reservation.full_cost);
        let full_cost = reserved.scaled(units, self.units().max(1)).ok_or_else(|| {
            Invalid::new("count", format!("times the unit cost of the reserve is more than {}", Money::MAX))
        })?;
        Ok((units, full_cost))
    }

    /// The service tier that prices the call.
    pub fn service_tier(&self) -> Option<&ServiceTier> {
        self.service_tier_of(self.reservation.as_ref().and_then(|reservation| reservation.delivered.as_ref()))
    }

    /// The service tier of a delivery: its own or, without one, that of the reserve. Only a model that served
    /// the call in place of another can lack the latter. The call then costs as without a service tier.
    fn service_tier_of<'a>(&'a self, delivered: Option<&'a Delivered>) -> Option<&'a ServiceTier> {
        let of_reserve = self.content.service_tier.as_ref().filter(|name| self.has_service_tier(name));
        delivered.and_then(|delivered| delivered.service_tier.as_ref()).or(of_reserve)
    }

    /// Whether the model that prices the call has the service tier. Without such a model, every call has.
    pub fn has_service_tier(&self, name: &ServiceTier) -> bool {
        self.price_version.as_ref().is_none_or(|version| version.prices.service_tiers().contains_key(name))
    }

    /// The model that served the call, by the name that the caller gave it.
    pub fn served_model(&self) -> Option<&ModelName> {
        let delivered = self.reservation.as_ref().and_then(|reservation| reservation.delivered.as_ref());
        delivered.and_then(|delivered| delivered.model.as_ref()).or(self.content.model.as_ref())
    }

    /// This reservation, priced by the model that served it: by its version in force at the reserve, in the
    /// plan of the reserve. A reservation that no model prices, and a commit with a cost of its own, leave it
    /// as it is, and so does another name of the model that prices it.
    ///
    /// # Errors
    /// [`Error::Invalid`] names `model` if the model has no price.
    pub fn served_by(self, commit: &Commit) -> Result<Self, Error> {
        let served = commit.served.as_ref().filter(|_| commit.cost.is_none());
        let (Some(served), Some(_)) = (served, &self.price_version) else { return Ok(self) };
        let known = self.priced_model();
        if known == Some(&served.model) {
            return Ok(self);
        }
        let at_reserve = |name: &ModelName| served.book.at_in(self.plan, name, self.created_at);
        let (model, version) = at_reserve(&served.model)?;
        let is_same = known.is_some_and(|known| at_reserve(known).is_ok_and(|(of_known, _)| of_known == model));
        Ok(if is_same { self } else { Self { price_version: Some(version), ..self } })
    }

    /// The model of the price version: that of the reserve, or one that an earlier commit named. A commit with
    /// a cost needed no version of its model.
    fn priced_model(&self) -> Option<&ModelName> {
        let delivered = self.reservation.as_ref().and_then(|reservation| reservation.delivered.as_ref());
        let named = delivered.filter(|delivered| delivered.cost.is_none());
        named.and_then(|delivered| delivered.model.as_ref()).or(self.content.model.as_ref())
    }

    /// The summands of the amount; none if nothing is charged.
    pub fn price_lines(&self) -> Vec<PriceLine> {
        if !self.is_committed() {
            return Vec::new();
        }
        let cost = self.amount.plus(self.shortfall);
        let mut lines = self.lines_of_version().unwrap_or_else(|| self.lines_of_units(cost));
        lines.extend(rounding(&lines, cost).map(|line| match self.free {
            // The lines have their own rounding, so only the earlier charge of a stream is left.
            0 => PriceLine { class: EARLIER_CHARGE, ..line },
            units => PriceLine { class: FREE_QUOTA, units, ..line },
        }));
        lines.extend(rounding(&lines, self.amount).map(|line| PriceLine { class: SHORTFALL, ..line }));
        lines
    }

    fn lines_of_version(&self) -> Option<Vec<PriceLine>> {
        let version = self.priced_by()?;
        let delivered = self.reservation.as_ref().and_then(|reservation| reservation.delivered.as_ref());
        let usage = delivered.map_or(self.content.usage, |delivered| delivered.usage)?;
        let service_tier = self.service_tier();
        version.lines(Work { usage, calls: calls(self.quota_unit, self.free + self.paid), service_tier }).ok()
    }

    /// The line of a cost that no model gave.
    fn lines_of_units(&self, cost: Money) -> Vec<PriceLine> {
        if cost.is_zero() {
            return Vec::new();
        }
        let unit = cost.share(1, self.paid.max(1));
        let is_exact = unit.times(self.paid) == Some(cost);
        let price = if is_exact { unit } else { Money::ZERO };
        vec![PriceLine { class: UNIT, units: self.paid, price, factor: rust_decimal::Decimal::ONE, amount: cost }]
    }

    /// The split of a stream with the delivered `usage` between its held free units and the balance.
    ///
    /// # Errors
    /// As [`Self::priced`].
    pub fn so_far(&self, usage: Usage) -> Result<Split, Error> {
        let (units, full_cost) = self.priced(&Delivered::stream(self, usage))?;
        let held_free = self.reservation.as_ref().map_or(0, |reservation| reservation.free.into());
        Ok(charge::split(units, full_cost, held_free))
    }
}

/// Lines beside those of the classes: the part of an earlier charge that the delivered work does not explain,
/// the free units, and delivered work that was not charged.
const EARLIER_CHARGE: &str = "earlier_charge";
const FREE_QUOTA: &str = "free_quota";
const SHORTFALL: &str = "shortfall";

impl Delivered {
    /// The delivery of a stream: the reserved units and its usage.
    pub fn stream(reserved: &Transaction, usage: Usage) -> Self {
        let count = reserved.content.count;
        Self { count, cost: None, usage: Some(usage), service_tier: None, model: None }
    }
}
