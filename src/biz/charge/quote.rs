//! The quote of a call: its units and their cost, before free quota and balance are applied.

use std::sync::Arc;

use super::prices::{PriceVersion, Prices};
use crate::biz::{
    account::catalog::{Plan, Price, QuotaUnit},
    values::{calendar::Calendar, error::Result, ids::ModelName, invalid::Invalid, money::Money, usage::Usage},
};

/// Most units of one call, for calls and tokens.
pub const MAX_UNITS: u32 = 1_000_000_000;

/// The field that errors name for an estimate.
pub const ESTIMATE: &str = "estimated_input_tokens";

/// The caller's description of a call.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    pub count: u32,
    /// The cost of all units without free quota. It replaces every price.
    pub cost: Option<Money>,
    pub model: Option<&'a ModelName>,
    pub usage: Option<Usage>,
    /// The request field of `usage`, for errors.
    pub tokens_field: &'static str,
}

/// A priced call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    pub units: u32,
    pub quota_unit: QuotaUnit,
    /// The cost of all units without free quota.
    pub cost: Money,
    /// The version in force, if the call is priced by model.
    pub version: Option<PriceVersion>,
}

impl Quote {
    /// The quote of a call that is not priced by model.
    pub fn of_calls(units: u32, cost: Money) -> Self {
        Self { units, quota_unit: QuotaUnit::Calls, cost, version: None }
    }
}

/// Prices calls with the versions in force at the time of the request.
pub struct Quoter {
    prices: Arc<Prices>,
    calendar: Arc<Calendar>,
}

impl Quoter {
    pub fn new(prices: Arc<Prices>, calendar: Arc<Calendar>) -> Self {
        Self { prices, calendar }
    }

    /// Prices a call of a service.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::biz::values::error::Error::Invalid) for a model without a price,
    /// for required tokens that are missing or too many, and for a cost above [`Money::MAX`].
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
        // Zero tokens count as missing. The error names the request field of the caller.
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

/// The units of a call whose free quota counts tokens.
///
/// # Errors
/// [`Invalid`] names `field` for zero tokens, and for more than [`MAX_UNITS`].
pub fn token_units(field: &str, usage: Usage) -> std::result::Result<u32, Invalid> {
    u32::try_from(usage.tokens())
        .ok()
        .filter(|tokens| (1..=MAX_UNITS).contains(tokens))
        .ok_or_else(|| Invalid::new(field, format!("must be 1 to {MAX_UNITS} tokens, input and output together")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::biz::{
        account::{
            catalog::QuotaUnit::{Calls, Tokens},
            policy::Policy,
        },
        charge::prices::{PriceBook, TokenPrices},
        values::{calendar::SystemClock, ids::PriceVersionId},
    };

    fn yuan(text: &str) -> Money {
        text.parse().unwrap()
    }

    fn usage(input_tokens: u32, cached_input_tokens: u32, output_tokens: u32) -> Option<Usage> {
        Some(Usage { input_tokens, cached_input_tokens, output_tokens })
    }

    /// One call.
    const CALL: Ask<'_> = Ask { count: 1, cost: None, model: None, usage: None, tokens_field: "usage" };

    /// The units, the cost, and whether a price version applies, for a call of the model `m`. A million
    /// input tokens cost 1, cached ones 0.5, and output tokens 2.
    fn quote(price: Price, ask: Ask<'_>) -> std::result::Result<(u32, Money, bool), String> {
        quote_of("m", price, ask)
    }

    fn quote_of(model: &str, price: Price, ask: Ask<'_>) -> std::result::Result<(u32, Money, bool), String> {
        let prices = TokenPrices { input: yuan("1"), cached_input: yuan("0.5"), output: yuan("2") };
        let version = PriceVersion { id: PriceVersionId::from_stored("v"), prices };
        let mut book = PriceBook::default();
        book.set(ModelName::from_stored("m"), chrono::DateTime::UNIX_EPOCH, Ok(version));
        let calendar = Calendar::new(chrono_tz::UTC, SystemClock);
        let quoter = Quoter::new(Arc::new(Prices::new(book)), Arc::new(calendar));
        let plan = Plan { price, free_quota: 0, policy: Policy::default() };
        let model = ModelName::parse_optional("model", model).unwrap();
        let quote = quoter.quote(plan, Ask { model: model.as_ref(), ..ask }).map_err(|error| error.to_string())?;
        Ok((quote.units, quote.cost, quote.version.is_some()))
    }

    #[test]
    fn each_unit_costs_the_price_of_its_service_unless_the_call_names_a_cost() {
        let price = Price::Unit(yuan("0.1"));
        assert_eq!(quote(price, Ask { count: 3, ..CALL }), Ok((3, yuan("0.3"), false)));
        assert_eq!(quote(price, Ask { count: 3, cost: Some(yuan("7")), ..CALL }), Ok((3, yuan("7"), false)));
        let dear = Price::Unit(Money::MAX);
        let refused = "count: times the price 999999999.999999 is more than 999999999.999999";
        assert_eq!(quote(dear, Ask { count: 2, ..CALL }), Err(refused.into()));
        assert_eq!(quote(dear, CALL), Ok((1, Money::MAX, false)));
    }

    #[test]
    fn a_model_prices_the_tokens_of_a_call_and_the_units_are_calls_or_tokens() {
        let ask = Ask { count: 3, usage: usage(2_000_000, 1_000_000, 1_000_000), ..CALL };
        assert_eq!(quote(Price::Model(Calls), ask), Ok((3, yuan("3.5"), true)));
        assert_eq!(quote(Price::Model(Tokens), ask), Ok((3_000_000, yuan("3.5"), true)));
    }

    #[test]
    fn a_call_that_is_priced_by_model_needs_tokens_even_with_a_cost() {
        for (unit, cost, usage) in [
            (Calls, None, None),
            (Calls, None, usage(0, 0, 0)),
            (Tokens, None, None),
            (Tokens, Some(yuan("7")), None),
            (Tokens, Some(yuan("7")), usage(0, 0, 0)),
        ] {
            let refused = "usage: is required: the service is priced by model";
            assert_eq!(quote(Price::Model(unit), Ask { cost, usage, ..CALL }), Err(refused.into()));
        }
        // A cost replaces the prices. If units are calls, the tokens are then not needed.
        assert_eq!(quote(Price::Model(Calls), Ask { cost: Some(yuan("7")), ..CALL }), Ok((1, yuan("7"), true)));
    }

    #[test]
    fn a_call_that_is_priced_by_model_needs_a_model_with_prices_or_a_cost() {
        let (price, ask) = (Price::Model(Tokens), Ask { usage: usage(1, 0, 1), ..CALL });
        let required = "model: is required: the service is priced by model";
        assert_eq!(quote_of("", price, ask), Err(required.into()));
        assert_eq!(quote_of("other", price, ask), Err("model: \"other\" has no price".into()));
        for (model, has_version) in [("", false), ("other", false), ("m", true)] {
            let with_cost = Ask { cost: Some(yuan("7")), ..ask };
            assert_eq!(quote_of(model, price, with_cost), Ok((2, yuan("7"), has_version)));
        }
    }

    #[test]
    fn the_field_that_the_tokens_came_from_is_to_blame() {
        let ask = Ask { usage: usage(1, 2, 1), tokens_field: ESTIMATE, ..CALL };
        let refused = "estimated_input_tokens: must be at most input_tokens";
        assert_eq!(quote(Price::Model(Tokens), ask), Err(refused.into()));
    }

    #[test]
    fn a_call_has_a_billion_units_at_the_most() {
        let of = |input_tokens| token_units("usage", Usage { input_tokens, ..Usage::default() });
        assert_eq!((of(1), of(MAX_UNITS)), (Ok(1), Ok(MAX_UNITS)));
        for refused in [0, MAX_UNITS + 1, u32::MAX] {
            assert_eq!(of(refused).unwrap_err().field, "usage");
        }
    }
}
