//! Prices a reservation: the units and the cost of the delivered work.

use super::transaction::{Delivered, Transaction};
use crate::biz::{
    account::catalog::QuotaUnit,
    charge::{self, Split, quote::token_units},
    values::{error::Error, invalid::Invalid, money::Money, usage::Usage},
};

impl Transaction {
    /// The units that a commit delivers, and their cost without free quota: the cost in the commit,
    /// the cost at the pinned prices, or the unit cost of the reserve.
    ///
    /// # Errors
    /// [`Error::Invalid`] for required tokens that are missing, and above the largest amounts.
    pub fn priced(&self, delivered: &Delivered) -> Result<(u32, Money), Error> {
        let usage = delivered.usage.filter(|usage| usage.tokens() > 0);
        let units = match (self.quota_unit, usage) {
            (QuotaUnit::Calls, _) => delivered.count,
            (QuotaUnit::Tokens, Some(usage)) => token_units("usage", usage)?,
            // Without usage the estimate gives the units. The cost does not depend on them.
            (QuotaUnit::Tokens, None) => self.units(),
        };
        if let Some(cost) = delivered.cost {
            return Ok((units, cost));
        }
        if let Some(version) = &self.price_version {
            let usage =
                usage.ok_or_else(|| Invalid::new("usage", "is required: the reservation is priced by model"))?;
            return Ok((units, version.prices.cost(usage)?));
        }
        let reserved = self.reservation.as_ref().map_or(Money::ZERO, |reservation| reservation.full_cost);
        let full_cost = reserved.scaled(units, self.units().max(1)).ok_or_else(|| {
            Invalid::new("count", format!("times the unit cost of the reserve is more than {}", Money::MAX))
        })?;
        Ok((units, full_cost))
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

impl Delivered {
    /// The delivery of a stream: the reserved units and its usage.
    pub fn stream(reserved: &Transaction, usage: Usage) -> Self {
        Self { count: reserved.content.count, cost: None, usage: Some(usage) }
    }
}
