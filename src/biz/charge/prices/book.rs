//! The price versions of every model, and the cost of a call.

use std::{collections::BTreeMap, fmt};

use chrono::{DateTime, Utc};

use crate::biz::values::{
    ids::{ModelName, PriceVersionId},
    invalid::Invalid,
    money::Money,
    usage::Usage,
};

/// Prices of one model, per million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenPrices {
    /// Input tokens that are not cached.
    pub input: Money,
    pub cached_input: Money,
    pub output: Money,
}

const TOKENS_PER_PRICE: u128 = 1_000_000;

impl TokenPrices {
    /// The cost of a call: added up exactly, then rounded once to the nearest millionth, halves up.
    /// A cost above zero is at least a millionth.
    ///
    /// # Errors
    /// [`Invalid`] names `usage.cached_input_tokens` if it exceeds the input tokens, and `usage` if
    /// the cost exceeds [`Money::MAX`].
    pub fn cost(&self, usage: Usage) -> Result<Money, Invalid> {
        let fresh = usage
            .input_tokens
            .checked_sub(usage.cached_input_tokens)
            .ok_or_else(|| Invalid::new("usage.cached_input_tokens", "must be at most input_tokens"))?;
        let parts =
            [(self.input, fresh), (self.cached_input, usage.cached_input_tokens), (self.output, usage.output_tokens)];
        // The sum of three products of 63 and 32 bits fits 128 bits.
        let exact: u128 =
            parts.iter().map(|(price, tokens)| u128::from(price.micros().unsigned_abs()) * u128::from(*tokens)).sum();
        let rounded = (exact + TOKENS_PER_PRICE / 2) / TOKENS_PER_PRICE;
        i64::try_from(rounded.max(exact.min(1)))
            .ok()
            .map(Money::from_micros)
            .filter(|cost| *cost <= Money::MAX)
            .ok_or_else(|| Invalid::new("usage", format!("costs more than {}", Money::MAX)))
    }
}

/// `input/cached_input/output`.
impl fmt::Display for TokenPrices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.input, self.cached_input, self.output)
    }
}

/// Prices with the id that a transaction stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceVersion {
    pub id: PriceVersionId,
    pub prices: TokenPrices,
}

/// The versions of every model, by the instant at which each comes into force. A call of any other
/// model is an error, never free.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PriceBook(BTreeMap<ModelName, BTreeMap<DateTime<Utc>, Result<PriceVersion, Invalid>>>);

impl PriceBook {
    /// Adds a version, or the defect of an invalid one. It replaces a version of the same model and
    /// instant.
    pub fn set(&mut self, model: ModelName, effective_from: DateTime<Utc>, version: Result<PriceVersion, Invalid>) {
        self.0.entry(model).or_default().insert(effective_from, version);
    }

    /// The version in force at `at`: the latest one that is not in the future.
    ///
    /// # Errors
    /// [`Invalid`] names `model` if no valid version is in force.
    pub fn at(&self, model: &ModelName, at: DateTime<Utc>) -> Result<&PriceVersion, Invalid> {
        let versions = self.0.get(model).ok_or_else(|| Invalid::new("model", format!("{model:?} has no price")))?;
        match versions.range(..=at).next_back() {
            Some((_, Ok(version))) => Ok(version),
            // The caller can't correct the row. The log has the reason for the operator.
            Some((_, Err(_))) => Err(Invalid::new("model", format!("{model:?} has no usable price"))),
            None => Err(Invalid::new("model", format!("{model:?} has no price yet"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prices(input: &str, cached_input: &str, output: &str) -> TokenPrices {
        let yuan = |text: &str| text.parse().unwrap();
        TokenPrices { input: yuan(input), cached_input: yuan(cached_input), output: yuan(output) }
    }

    fn usage(input_tokens: u32, cached_input_tokens: u32, output_tokens: u32) -> Usage {
        Usage { input_tokens, output_tokens, cached_input_tokens }
    }

    fn cost(prices: TokenPrices, usage: Usage) -> String {
        prices.cost(usage).unwrap().to_string()
    }

    #[test]
    fn cached_input_is_a_part_of_the_input_at_its_own_price() {
        let prices = prices("2", "0.5", "8");
        assert_eq!(cost(prices, usage(1_000_000, 0, 0)), "2");
        assert_eq!(cost(prices, usage(1_000_000, 1_000_000, 0)), "0.5");
        assert_eq!(cost(prices, usage(1_000_000, 400_000, 250_000)), "3.4");
        assert_eq!(prices.cost(usage(5, 6, 0)).unwrap_err().field, "usage.cached_input_tokens");
    }

    #[test]
    fn the_sum_is_rounded_once_and_halves_go_up() {
        // Three times 0.4 millionths. Each alone would be rounded to zero.
        assert_eq!(cost(prices("0.4", "0.4", "0.4"), usage(2, 1, 1)), "0.000001");
        assert_eq!(cost(prices("0.5", "0", "0"), usage(1, 0, 0)), "0.000001");
        assert_eq!(cost(prices("0", "0", "1.499999"), usage(0, 0, 1)), "0.000001");
        assert_eq!(cost(prices("0", "0", "1.5"), usage(0, 0, 1)), "0.000002");
    }

    #[test]
    fn tokens_that_cost_more_than_nothing_cost_at_least_a_millionth() {
        assert_eq!(cost(prices("0.15", "0.15", "0"), usage(3, 0, 0)), "0.000001");
        assert_eq!(cost(prices("0.000001", "0", "0"), usage(1, 0, 0)), "0.000001");
        assert_eq!(cost(prices("0", "0.000001", "0"), usage(1, 1, 0)), "0.000001");
        for free in [usage(1_000_000, 0, 0), usage(0, 0, 0)] {
            assert_eq!(cost(prices("0", "0", "0"), free), "0");
        }
        assert_eq!(cost(prices("1", "0", "1"), usage(5, 5, 0)), "0");
    }

    #[test]
    fn a_cost_beyond_the_largest_amount_is_an_error() {
        let dear = TokenPrices { input: Money::MAX, cached_input: Money::MAX, output: Money::MAX };
        assert_eq!(dear.cost(usage(1_000_000, 0, 0)).unwrap(), Money::MAX);
        assert_eq!(dear.cost(usage(1_000_000, 0, 1)).unwrap_err().field, "usage");
        assert_eq!(dear.cost(usage(u32::MAX, 7, u32::MAX)).unwrap_err().field, "usage");
    }

    #[test]
    fn the_last_version_that_has_begun_is_in_force() {
        let mut book = PriceBook::default();
        let model = |name: &str| ModelName::from_stored(name);
        let time = |text: &str| -> DateTime<Utc> { text.parse().unwrap() };
        let version = |id: &str| PriceVersion { id: PriceVersionId::from_stored(id), prices: prices("1", "1", "1") };
        book.set(model("m"), time("2026-11-01T00:00:00Z"), Ok(version("second")));
        book.set(model("m"), time("2026-10-01T00:00:00Z"), Ok(version("replaced")));
        book.set(model("m"), time("2026-10-01T00:00:00Z"), Ok(version("first")));
        let at = |name: &str, text: &str| book.at(&model(name), time(text)).map(|version| version.id.to_string());
        assert_eq!(at("m", "2026-10-01T00:00:00Z").unwrap(), "first");
        assert_eq!(at("m", "2026-10-31T23:59:59.999999Z").unwrap(), "first");
        assert_eq!(at("m", "2026-11-01T00:00:00Z").unwrap(), "second");
        assert_eq!(at("m", "2030-01-01T00:00:00Z").unwrap(), "second");
        for (name, when) in [("m", "2026-09-30T23:59:59.999999Z"), ("M", "2026-11-01T00:00:00Z")] {
            assert_eq!(at(name, when).unwrap_err().field, "model");
        }
    }

    /// The nearest whole number to `numerator / 1000000` from below or above, but 1 for less
    /// than a half, found without the rounding under test.
    fn is_nearest(micros: i64, numerator: u128) -> bool {
        if (1..500_000).contains(&numerator) {
            return micros == 1;
        }
        let doubled = 2 * numerator;
        let (low, high) = (2 * i128::from(micros) - 1, 2 * i128::from(micros) + 1);
        let scaled = |half: i128| half * 1_000_000;
        let doubled = i128::try_from(doubled).unwrap();
        scaled(low) <= doubled && doubled < scaled(high)
    }

    proptest! {
        #[test]
        fn the_cost_is_the_nearest_millionth_of_the_exact_sum(
            input in 0i64..1_000_000_000, cached_input in 0i64..1_000_000_000, output in 0i64..1_000_000_000,
            fresh in 0u32..3_000_000, cached in 0u32..3_000_000, out in 0u32..3_000_000,
        ) {
            let money = Money::from_micros;
            let prices =
                TokenPrices { input: money(input), cached_input: money(cached_input), output: money(output) };
            let product = |price: i64, tokens: u32| u128::from(price.unsigned_abs()) * u128::from(tokens);
            let exact = product(input, fresh) + product(cached_input, cached) + product(output, out);
            let cost = prices.cost(usage(fresh + cached, cached, out)).unwrap();
            prop_assert!(is_nearest(cost.micros(), exact), "{} of {}", cost, exact);
        }

        #[test]
        fn no_usage_and_no_price_overflow_unnoticed(
            prices in proptest::array::uniform3(0i64..=Money::MAX.micros()),
            tokens in proptest::array::uniform3(any::<u32>()),
        ) {
            let [input, cached_input, output] = prices.map(Money::from_micros);
            let [input_tokens, cached_input_tokens, output_tokens] = tokens;
            let usage = Usage { input_tokens, cached_input_tokens, output_tokens };
            let fresh = input_tokens.checked_sub(cached_input_tokens);
            let product = |price: Money, tokens: u32| u128::from(price.micros().unsigned_abs()) * u128::from(tokens);
            let exact = fresh.map(|fresh| {
                product(input, fresh) + product(cached_input, cached_input_tokens) + product(output, output_tokens)
            });
            // Half a millionth below the first amount that is too large.
            let limit = (2 * u128::from(Money::MAX.micros().unsigned_abs()) + 1) * TOKENS_PER_PRICE / 2;
            let cost = (TokenPrices { input, cached_input, output }).cost(usage);
            prop_assert_eq!(cost.is_ok(), exact.is_some_and(|exact| exact < limit));
            if let Ok(cost) = cost {
                prop_assert!(is_nearest(cost.micros(), exact.unwrap()));
            }
        }
    }
}
