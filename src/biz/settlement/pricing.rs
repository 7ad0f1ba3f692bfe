//! What a reservation comes to: the units and the cost of what was delivered.

use super::transaction::{Delivered, Transaction};
use crate::biz::{
    account::catalog::QuotaUnit,
    charge::{self, Split, quote::token_units},
    values::{error::Error, invalid::Invalid, money::Money, usage::Usage},
};

impl Transaction {
    /// The units that a commit delivers, and what all of them cost if none were free: as the
    /// commit says, by the pinned prices, or by the unit cost of the reserve.
    ///
    /// # Errors
    /// [`Error::Invalid`] where tokens are needed and missing, and beyond the largest amounts.
    pub fn priced(&self, delivered: &Delivered) -> Result<(u32, Money), Error> {
        let usage = delivered.usage.filter(|usage| usage.tokens() > 0);
        let units = match (self.quota_unit, usage) {
            (QuotaUnit::Calls, _) => delivered.count,
            (QuotaUnit::Tokens, Some(usage)) => token_units("usage", usage)?,
            // As estimated: what they cost is known without them.
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

    /// How a stream that has come to `usage` is paid, of the free units it holds and the balance.
    ///
    /// # Errors
    /// As [`Self::priced`].
    pub fn so_far(&self, usage: Usage) -> Result<Split, Error> {
        let (units, full_cost) = self.priced(&Delivered::stream(self, usage))?;
        Ok(charge::split(units, full_cost, self.reservation.as_ref().map_or(0, |reservation| reservation.free)))
    }
}

impl Delivered {
    /// As many units as were reserved, and what a stream of `reserved` has come to.
    pub fn stream(reserved: &Transaction, usage: Usage) -> Self {
        Self { count: reserved.content.count, cost: None, usage: Some(usage) }
    }
}
