//! What a call is before it is known who pays: how many units, and what they cost.

use std::sync::Arc;

use super::prices::{PriceVersion, Prices};
use crate::biz::{
    account::catalog::{Plan, Price, QuotaUnit},
    values::{calendar::Calendar, error::Result, ids::ModelName, invalid::Invalid, money::Money, usage::Usage},
};

/// Units of one call at the most, calls and tokens alike.
pub const MAX_UNITS: u32 = 1_000_000_000;

/// The field that is to blame for an estimate.
pub const ESTIMATE: &str = "estimated_input_tokens";

/// What a caller says of a call.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    pub count: u32,
    /// Of all units if none were free. It takes the place of every price.
    pub cost: Option<Money>,
    pub model: Option<&'a ModelName>,
    pub usage: Option<Usage>,
    /// The field that `usage` came from.
    pub tokens_field: &'static str,
}

/// A call, priced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    pub units: u32,
    pub quota_unit: QuotaUnit,
    /// Of all units if none were free.
    pub cost: Money,
    /// In force for the model of a call that is priced by model.
    pub version: Option<PriceVersion>,
}

impl Quote {
    /// Of a call that no model prices.
    pub fn of_calls(units: u32, cost: Money) -> Self {
        Self { units, quota_unit: QuotaUnit::Calls, cost, version: None }
    }
}

/// Prices calls, at the moment they are asked for.
pub struct Quoter {
    prices: Arc<Prices>,
    calendar: Arc<Calendar>,
}

impl Quoter {
    pub fn new(prices: Arc<Prices>, calendar: Arc<Calendar>) -> Self {
        Self { prices, calendar }
    }

    /// # Errors
    /// [`super::error::Error::Invalid`] for a model without a price, for tokens that are
    /// needed and missing or too many, and for a cost beyond [`Money::MAX`].
    pub fn quote(&self, plan: Plan, ask: Ask<'_>) -> Result<Quote> {
        match plan.price {
            Price::Unit(price) => {
                let cost = ask.cost.or_else(|| price.times(ask.count)).ok_or_else(|| {
                    Invalid::new("count", format!("times the price {price} is more than {}", Money::MAX))
                })?;
                Ok(Quote::of_calls(ask.count, cost))
            }
            Price::Model(quota_unit) => self.by_model(quota_unit, ask),
        }
    }

    fn by_model(&self, quota_unit: QuotaUnit, ask: Ask<'_>) -> Result<Quote> {
        // Nobody means none: they have other names where they came from.
        let usage = ask
            .usage
            .filter(|usage| usage.tokens() > 0)
            .ok_or_else(|| Invalid::new(ask.tokens_field, "is required: the service is priced by model"));
        let units = match quota_unit {
            QuotaUnit::Calls => ask.count,
            QuotaUnit::Tokens => token_units(ask.tokens_field, usage.clone()?)?,
        };
        let version = self.version(ask.model);
        let Some(cost) = ask.cost else {
            let version = version?;
            let cost = version.prices.cost(usage?).map_err(|error| Invalid::new(ask.tokens_field, error.why))?;
            return Ok(Quote { units, quota_unit, cost, version: Some(version) });
        };
        Ok(Quote { units, quota_unit, cost, version: version.ok() })
    }

    fn version(&self, model: Option<&ModelName>) -> std::result::Result<PriceVersion, Invalid> {
        let model = model.ok_or_else(|| Invalid::new("model", "is required: the service is priced by model"))?;
        self.prices.book().at(model, self.calendar.now().utc).cloned()
    }
}

/// The units of a call of which the free quota counts the tokens.
///
/// # Errors
/// Names `field` where there are none, or more than [`MAX_UNITS`].
pub fn token_units(field: &str, usage: Usage) -> std::result::Result<u32, Invalid> {
    u32::try_from(usage.tokens())
        .ok()
        .filter(|tokens| (1..=MAX_UNITS).contains(tokens))
        .ok_or_else(|| Invalid::new(field, format!("must be 1 to {MAX_UNITS} tokens, input and output together")))
}
