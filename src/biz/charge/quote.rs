//! The quote of a call: its units and their cost, before free quota and balance are applied.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;

use super::prices::{PriceBook, PriceLine, PriceVersion, Prices, Work};
use crate::biz::{
    account::{
        catalog::{Price, QuotaUnit, ServiceTerms},
        quota_weights::QuotaWeights,
    },
    values::{
        calendar::Calendar,
        error::Result,
        ids::{ModelName, PlanName, ServiceTier},
        invalid::Invalid,
        money::Money,
        usage::Usage,
    },
};

/// Most units of one call, where units are calls.
pub const MAX_UNITS: u32 = 1_000_000_000;

/// The field that errors name for an estimate.
pub const ESTIMATE: &str = "estimated_input_tokens";

/// The caller's description of a call.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// The plan of the user.
    pub plan: Option<PlanName>,
    pub count: u32,
    /// The cost of all units without free quota. It replaces every price.
    pub cost: Option<Money>,
    pub model: Option<&'a ModelName>,
    pub service_tier: Option<&'a ServiceTier>,
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
    /// The plan that priced the call; `None` for the default.
    pub plan: Option<PlanName>,
}

impl Quote {
    /// The quote of a call that is not priced by model.
    pub fn of_calls(units: u32, cost: Money) -> Self {
        Self { units, quota_unit: QuotaUnit::Calls, cost, version: None, plan: None }
    }
}

/// The prices at the time of a request.
#[derive(Debug, Clone)]
pub struct Tariff {
    pub book: Arc<PriceBook>,
    pub at: DateTime<Utc>,
}

impl Tariff {
    /// Prices a call of a service. `terms` are those of the service in the plan of the user.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::biz::values::error::Error::Invalid) for a model without a price,
    /// for required tokens that are missing or too many, and for a cost above [`Money::MAX`].
    pub fn quote(&self, terms: ServiceTerms, ask: Ask<'_>) -> Result<Quote> {
        match terms.price {
            Price::Unit(price) => by_unit(price, ask),
            Price::Model(quota_unit) => self.by_model(quota_unit, ask),
        }
    }

    fn by_model(&self, quota_unit: QuotaUnit, ask: Ask<'_>) -> Result<Quote> {
        // Nothing measured counts as missing. The error names the request field of the caller.
        let usage = ask
            .usage
            .filter(|usage| !usage.is_empty())
            .ok_or_else(|| Invalid::new(ask.tokens_field, "is required: the service is priced by model"));
        let units = match quota_unit {
            QuotaUnit::Calls => ask.count,
            QuotaUnit::Tokens(weights) => token_units(ask.tokens_field, usage.clone()?, weights)?,
        };
        let (version, plan) = (self.version(ask), ask.plan);
        let Some(cost) = ask.cost else {
            let (_, version) = version?;
            let work = Work { usage: usage?, calls: calls(quota_unit, units), service_tier: ask.service_tier };
            let cost = version.cost(work).map_err(|error| match error.field.as_str() {
                "usage" => Invalid::new(ask.tokens_field, error.why),
                _ => error,
            })?;
            return Ok(Quote { units, quota_unit, cost, version: Some(version), plan });
        };
        Ok(Quote { units, quota_unit, cost, version: version.ok().map(|(_, version)| version), plan })
    }

    /// As [`Self::quote`], with the summands of the cost.
    ///
    /// # Errors
    /// As [`Self::quote`].
    pub fn explain(&self, terms: ServiceTerms, ask: Ask<'_>) -> Result<Explained> {
        let quote = self.quote(terms, ask)?;
        let (Some(version), Some(usage), None) = (&quote.version, ask.usage, ask.cost) else {
            let price = match terms.price {
                Price::Unit(price) if ask.cost.is_none() => price,
                _ => Money::ZERO,
            };
            let line = PriceLine { class: UNIT, units: quote.units, price, factor: Decimal::ONE, amount: quote.cost };
            let lines = if quote.cost.is_zero() { Vec::new() } else { vec![line] };
            return Ok(Explained { quote, lines, model: None, above_input_tokens: None });
        };
        let work = Work { usage, calls: calls(quote.quota_unit, quote.units), service_tier: ask.service_tier };
        let lines = version.lines(work)?;
        let above_input_tokens = version.prices.tier(usage.input_tokens).map(|tier| tier.above_input_tokens);
        let model = self.version(ask).ok().map(|(model, _)| model);
        Ok(Explained { quote, lines, model, above_input_tokens })
    }

    fn version(&self, ask: Ask<'_>) -> std::result::Result<(ModelName, PriceVersion), Invalid> {
        let model = ask.model.ok_or_else(|| Invalid::new("model", "is required: the service is priced by model"))?;
        self.book.at_in(ask.plan, model, self.at)
    }
}

fn by_unit(price: Money, ask: Ask<'_>) -> Result<Quote> {
    let cost = ask
        .cost
        .or_else(|| price.times(ask.count))
        .ok_or_else(|| Invalid::new("count", format!("times the price {price} is more than {}", Money::MAX)))?;
    Ok(Quote { plan: ask.plan, ..Quote::of_calls(ask.count, cost) })
}

/// A quote with its reasons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    pub quote: Quote,
    /// Their sum is the cost.
    pub lines: Vec<PriceLine>,
    /// The model whose prices apply.
    pub model: Option<ModelName>,
    /// The bound of the tier that applies.
    pub above_input_tokens: Option<u32>,
}

/// The class of a line of units that no model prices.
pub const UNIT: &str = "unit";

/// Prices calls with the versions in force at the time of the request.
pub struct Quoter {
    prices: Arc<Prices>,
    calendar: Arc<Calendar>,
}

impl Quoter {
    pub fn new(prices: Arc<Prices>, calendar: Arc<Calendar>) -> Self {
        Self { prices, calendar }
    }

    /// As [`Tariff::quote`], at the prices of now. A call that is priced by unit needs no book.
    ///
    /// # Errors
    /// As [`Tariff::quote`].
    pub fn quote(&self, terms: ServiceTerms, ask: Ask<'_>) -> Result<Quote> {
        match terms.price {
            Price::Unit(price) => by_unit(price, ask),
            Price::Model(_) => self.tariff().quote(terms, ask),
        }
    }

    /// The prices of now.
    pub fn tariff(&self) -> Tariff {
        Tariff { book: self.prices.book(), at: self.calendar.now().utc }
    }

    /// The prices in use.
    pub fn prices(&self) -> &Prices {
        &self.prices
    }
}

/// The number of calls that `units` are. Where units are tokens, they belong to one call.
pub fn calls(quota_unit: QuotaUnit, units: u32) -> u32 {
    match quota_unit {
        QuotaUnit::Calls => units,
        QuotaUnit::Tokens(_) => 1,
    }
}

/// Most tokens of one call that a free quota counts. A larger call is charged in full all the same,
/// because its work is delivered.
pub const MAX_TOKENS: u32 = i32::MAX.unsigned_abs();

/// The units of a call whose free quota counts tokens.
///
/// # Errors
/// [`Invalid`] names `field` for zero tokens, and a part of the usage that is above its whole.
pub fn token_units(field: &str, usage: Usage, weights: QuotaWeights) -> std::result::Result<u32, Invalid> {
    match u32::try_from(weights.units(usage)?).unwrap_or(u32::MAX) {
        0 => Err(Invalid::new(field, "must have tokens of input or output")),
        tokens => Ok(tokens.min(MAX_TOKENS)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::biz::{
        account::{
            catalog::QuotaUnit::{self, Calls},
            policy::Policy,
        },
        charge::prices::{PriceBook, PriceList},
        values::{calendar::SystemClock, ids::PriceVersionId},
    };

    fn yuan(text: &str) -> Money {
        text.parse().unwrap()
    }

    fn usage(input_tokens: u32, cached_input_tokens: u32, output_tokens: u32) -> Option<Usage> {
        Some(Usage { cached_input_tokens, ..Usage::of_text(input_tokens, output_tokens) })
    }

    /// One call.
    const CALL: Ask<'_> =
        Ask { plan: None, count: 1, cost: None, model: None, service_tier: None, usage: None, tokens_field: "usage" };

    /// The units, the cost, and whether a price version applies, for a call of the model `m`. A million
    /// input tokens cost 1, cached ones 0.5, and output tokens 2.
    fn quote(price: Price, ask: Ask<'_>) -> std::result::Result<(u32, Money, bool), String> {
        quote_of("m", price, ask)
    }

    fn quote_of(model: &str, price: Price, ask: Ask<'_>) -> std::result::Result<(u32, Money, bool), String> {
        let prices = PriceList::flat(yuan("1"), Some(yuan("0.5")), yuan("2"));
        let version = PriceVersion::new(PriceVersionId::from_stored("v"), prices);
        let mut book = PriceBook::default();
        book.set(ModelName::from_stored("m"), chrono::DateTime::UNIX_EPOCH, Ok(version));
        let calendar = Calendar::new(chrono_tz::UTC, SystemClock);
        let quoter = Quoter::new(Arc::new(Prices::new(book)), Arc::new(calendar));
        let terms = ServiceTerms { price, free_quota: 0, policy: Policy::default() };
        let model = ModelName::parse_optional("model", model).unwrap();
        let quote =
            quoter.tariff().quote(terms, Ask { model: model.as_ref(), ..ask }).map_err(|error| error.to_string())?;
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
        assert_eq!(quote(Price::Model(QuotaUnit::TOKENS), ask), Ok((3_000_000, yuan("3.5"), true)));
    }

    #[test]
    fn a_call_that_is_priced_by_model_needs_tokens_even_with_a_cost() {
        for (unit, cost, usage) in [
            (Calls, None, None),
            (Calls, None, usage(0, 0, 0)),
            (QuotaUnit::TOKENS, None, None),
            (QuotaUnit::TOKENS, Some(yuan("7")), None),
            (QuotaUnit::TOKENS, Some(yuan("7")), usage(0, 0, 0)),
        ] {
            let refused = "usage: is required: the service is priced by model";
            assert_eq!(quote(Price::Model(unit), Ask { cost, usage, ..CALL }), Err(refused.into()));
        }
        // A cost replaces the prices. If units are calls, the tokens are then not needed.
        assert_eq!(quote(Price::Model(Calls), Ask { cost: Some(yuan("7")), ..CALL }), Ok((1, yuan("7"), true)));
    }

    #[test]
    fn a_call_that_is_priced_by_model_needs_a_model_with_prices_or_a_cost() {
        let (price, ask) = (Price::Model(QuotaUnit::TOKENS), Ask { usage: usage(1, 0, 1), ..CALL });
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
        let ask = Ask { usage: None, tokens_field: ESTIMATE, ..CALL };
        let refused = "estimated_input_tokens: is required: the service is priced by model";
        assert_eq!(quote(Price::Model(QuotaUnit::TOKENS), ask), Err(refused.into()));
        let ask = Ask { usage: usage(1, 2, 1), ..CALL };
        let refused = "usage.cached_input_tokens: must be at most input_tokens";
        assert_eq!(quote(Price::Model(QuotaUnit::TOKENS), ask), Err(refused.into()));
        let tier = ServiceTier::from_stored("batch");
        let ask = Ask { usage: usage(1, 0, 1), service_tier: Some(&tier), ..CALL };
        let refused = "service_tier: \"batch\" is none of this model (none)";
        assert_eq!(quote(Price::Model(QuotaUnit::TOKENS), ask), Err(refused.into()));
        // A cost replaces the prices, and with them the tiers.
        let with_cost = Ask { cost: Some(yuan("7")), ..ask };
        assert_eq!(quote(Price::Model(QuotaUnit::TOKENS), with_cost), Ok((2, yuan("7"), true)));
        assert_eq!(quote(Price::Unit(yuan("1")), ask), Ok((1, yuan("1"), false)));
    }

    #[test]
    fn a_call_of_any_number_of_tokens_has_units() {
        let of = |input_tokens| token_units("usage", Usage::of_text(input_tokens, 0), QuotaWeights::ALL_TOKENS);
        assert_eq!((of(1), of(MAX_TOKENS), of(u32::MAX)), (Ok(1), Ok(MAX_TOKENS), Ok(MAX_TOKENS)));
        assert_eq!(of(0).unwrap_err().field, "usage");
    }
}
