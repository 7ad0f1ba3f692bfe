//! The JSON form of prices, in tables and in audit events. Amounts and factors are texts.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
};

use serde::Deserialize;

use super::{
    alias::Alias,
    list::{Draft, Given, PriceList, Rates, Tier},
};
use crate::biz::{
    account::quota_weights::QuotaWeights,
    values::{class::Class, factor::Factor, ids::ServiceTier, invalid::Invalid, money::Money},
};

/// The parts of a price list, as [`Text`] writes them. Unknown members are refused, because they could be
/// prices.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Details {
    /// By the names of their classes.
    prices: BTreeMap<String, String>,
    tiers: Vec<TierDetails>,
    service_tiers: BTreeMap<String, String>,
    aliases: Vec<String>,
    max_tokens: Option<u32>,
    /// The factor of a plan, on a transaction.
    multiplier: Option<String>,
    /// By the names of their classes, on a transaction.
    quota_weights: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TierDetails {
    above_input_tokens: u32,
    prices: BTreeMap<String, String>,
}

/// The details that a transaction has beside those of its prices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OfTransaction {
    /// The factor of the user's plan.
    pub multiplier: Factor,
    pub weights: QuotaWeights,
}

impl OfTransaction {
    pub const NONE: Self = Self { multiplier: Factor::ONE, weights: QuotaWeights::ALL_TOKENS };
}

/// The classes that have columns of their own.
const COLUMNS: [Class; 3] = [Class::Input, Class::CachedInput, Class::Output];

/// The part of a version that has no column of its own; `None` if there is none.
pub fn beside_columns(list: &PriceList) -> Option<String> {
    let mut text = Text::begin();
    text.list(list, |class| !COLUMNS.contains(&class));
    text.aliases(list.aliases());
    text.end()
}

/// The part of a transaction's prices that has no column of its own, without the aliases, which price
/// nothing, and the details of the transaction; `None` if there is none of them. A transaction that no
/// model prices has no list.
pub fn of_transaction(list: Option<&PriceList>, of: OfTransaction) -> Option<String> {
    let mut text = Text::begin();
    if let Some(list) = list {
        text.list(list, |class| !COLUMNS.contains(&class));
    }
    if of.multiplier != Factor::ONE {
        text.name("multiplier").quoted(of.multiplier);
    }
    if !of.weights.counts_all_tokens() {
        let weights = of.weights.names();
        text.name("quota_weights").open('{');
        weights.iter().for_each(|(class, weight)| text.name(class).quoted(weight));
        text.close('}');
    }
    text.end()
}

/// The whole price list.
pub fn whole(list: &PriceList) -> serde_json::Value {
    let mut text = Text::begin();
    text.list(list, |_| true);
    text.aliases(list.aliases());
    // The text is an object of texts, numbers and lists of them.
    text.end().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

/// A JSON object that is written member by member. Each charge by more than three prices has one, so it is
/// written straight from the prices.
struct Text(String);

/// Room for ten prices of a tier.
const ROOM: usize = 320;

impl Text {
    fn begin() -> Self {
        let mut text = Self(String::with_capacity(ROOM));
        text.0.push('{');
        text
    }

    /// The text, unless it has no member.
    fn end(mut self) -> Option<String> {
        let has_members = self.0 != "{";
        self.0.push('}');
        has_members.then_some(self.0)
    }

    /// The members of a list, except the aliases. `is_shown` chooses the prices without a tier.
    fn list(&mut self, list: &PriceList, is_shown: impl Fn(Class) -> bool) {
        if Class::ALL.into_iter().any(|class| is_shown(class) && list.base().given(class).is_some()) {
            self.name("prices").rates(list.base(), is_shown);
        }
        if !list.tiers().is_empty() {
            self.name("tiers").open('[');
            for Tier { above_input_tokens, rates } in list.tiers() {
                self.open('{');
                self.name("above_input_tokens").plain(*above_input_tokens);
                self.name("prices").rates(rates, |_| true);
                self.close('}');
            }
            self.close(']');
        }
        if !list.service_tiers().is_empty() {
            self.name("service_tiers").open('{');
            list.service_tiers().iter().for_each(|(name, factor)| self.name(name.as_str()).quoted(factor));
            self.close('}');
        }
        if let Some(most) = list.max_tokens() {
            self.name("max_tokens").plain(most);
        }
    }

    fn aliases(&mut self, aliases: &[Alias]) {
        if aliases.is_empty() {
            return;
        }
        self.name("aliases").open('[');
        for alias in aliases {
            self.comma();
            self.string(alias.as_str());
        }
        self.close(']');
    }

    fn rates(&mut self, rates: &Rates, is_shown: impl Fn(Class) -> bool) {
        self.open('{');
        for class in Class::ALL.into_iter().filter(|class| is_shown(*class)) {
            if let Some(price) = rates.given(class) {
                self.name(class.name()).quoted(price);
            }
        }
        self.close('}');
    }

    /// Begins a member of an object.
    fn name(&mut self, name: &str) -> &mut Self {
        self.comma();
        self.string(name);
        self.0.push(':');
        self
    }

    /// Begins an object or a list: a member, or an item.
    fn open(&mut self, bracket: char) {
        if !self.0.ends_with(':') {
            self.comma();
        }
        self.0.push(bracket);
    }

    fn close(&mut self, bracket: char) {
        self.0.push(bracket);
    }

    fn comma(&mut self) {
        if !self.0.ends_with(['{', '[']) {
            self.0.push(',');
        }
    }

    fn string(&mut self, text: &str) {
        if text.bytes().any(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f)) {
            self.plain(serde_json::Value::from(text));
        } else {
            self.0.push('"');
            self.0.push_str(text);
            self.0.push('"');
        }
    }

    /// A number as a text. It has no character that JSON escapes.
    fn quoted(&mut self, number: impl fmt::Display) {
        self.plain(format_args!("\"{number}\""));
    }

    fn plain(&mut self, value: impl fmt::Display) {
        // A write into a string never fails.
        let _ = write!(self.0, "{value}");
    }
}

/// Reads the text of [`beside_columns`] or [`of_transaction`] into a draft that has the prices of the columns, and returns the
/// details of a transaction.
///
/// # Errors
/// [`Invalid`] names `price_details`.
pub fn read_beside(draft: &mut Draft, text: &str) -> Result<OfTransaction, Invalid> {
    let refused = |why: String| Invalid::new("price_details", why);
    if !text.trim_start().starts_with('{') {
        return Err(refused("must be a JSON object".into()));
    }
    let details: Details = serde_json::from_str(text).map_err(|error| refused(error.to_string()))?;
    // Two prices of one class would be one too many.
    if let Some(column) = COLUMNS.into_iter().find(|class| details.prices.contains_key(class.name())) {
        return Err(refused(format!("{0} has the column {0}_price", column.name())));
    }
    read_classes(&mut draft.given, &details.prices).map_err(|error| refused(error.to_string()))?;
    for tier in details.tiers {
        let mut given = Given::default();
        read_classes(&mut given, &tier.prices).map_err(|error| refused(error.to_string()))?;
        draft.tiers.push((tier.above_input_tokens, given));
    }
    for (name, factor) in details.service_tiers {
        let name = ServiceTier::parse("service_tiers", &name).map_err(|error| refused(error.to_string()))?;
        let factor = factor.parse().map_err(|why: &str| refused(format!("{name}: {why}")))?;
        draft.service_tiers.insert(name, factor);
    }
    for alias in details.aliases {
        draft.aliases.push(Alias::parse(&alias).map_err(|error| refused(error.to_string()))?);
    }
    draft.max_tokens = details.max_tokens;
    let multiplier = match details.multiplier {
        None => Factor::ONE,
        Some(text) => text.parse().map_err(|why: &str| refused(format!("multiplier: {why}")))?,
    };
    let weights = QuotaWeights::of_names(&details.quota_weights);
    let weights = weights.map_err(|error| refused(format!("quota_weights: {error}")))?;
    Ok(OfTransaction { multiplier, weights })
}

fn read_classes(given: &mut Given, prices: &BTreeMap<String, String>) -> Result<(), Invalid> {
    for (name, price) in prices {
        let class = Class::ALL.into_iter().find(|class| class.name() == name);
        let class = class.ok_or_else(|| Invalid::new(name.as_str(), "is no class of tokens"))?;
        let price: Money = price.parse().map_err(|why| Invalid::new(name.as_str(), format!("{why}")))?;
        given[class as usize] = Some(price);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_list_survives_its_columns_and_its_json() {
        let yuan = |text: &str| Some(text.parse::<Money>().unwrap());
        let mut draft = Draft { given: [yuan("5"); 10], ..Draft::default() };
        draft.given[Class::Image as usize] = None;
        draft.given[Class::CacheWrite as usize] = yuan("6.250001");
        let mut tier = Given::default();
        tier[Class::Output as usize] = yuan("45");
        draft.tiers = vec![(200_000, tier), (272_000, [yuan("0"); 10])];
        draft.service_tiers.insert(ServiceTier::from_stored("batch"), "0.5".parse().unwrap());
        draft.aliases = vec![Alias::parse("g\"p\\t*").unwrap(), Alias::parse("gpt*").unwrap()];
        draft.max_tokens = Some(128_000);
        let list = draft.clone().check().unwrap();
        let weights = [("output", "4")].map(|(name, weight)| (name.to_owned(), weight.to_owned())).into();
        let of =
            OfTransaction { multiplier: "1.2".parse().unwrap(), weights: QuotaWeights::of_names(&weights).unwrap() };
        let read = |text: &str| {
            let mut read = Draft::default();
            COLUMNS.into_iter().for_each(|class| read.given[class as usize] = list.base().given(class));
            read_beside(&mut read, text).map(|of| (read, of))
        };
        let (found, of_version) = read(&beside_columns(&list).unwrap()).unwrap();
        assert_eq!((&found, found.clone().check().as_ref(), of_version), (&draft, Ok(&list), OfTransaction::NONE));
        let without_aliases = Draft { aliases: Vec::new(), ..draft.clone() };
        assert_eq!(read(&of_transaction(Some(&list), of).unwrap()), Ok((without_aliases, of)));
        assert_eq!(whole(&list)["aliases"], serde_json::json!([draft.aliases[0].as_str(), "gpt*"]));

        let flat = PriceList::flat(yuan("1").unwrap(), None, yuan("2").unwrap());
        assert_eq!((beside_columns(&flat), of_transaction(Some(&flat), OfTransaction::NONE)), (None, None));
        let aliased = Draft { aliases: draft.aliases, ..flat.draft() }.check().unwrap();
        assert_eq!(of_transaction(Some(&aliased), OfTransaction::NONE), None);
        assert_eq!(whole(&flat), serde_json::json!({"prices": {"input": "1", "output": "2"}}));
        let multiplied = OfTransaction { multiplier: Factor::MAX, ..OfTransaction::NONE };
        assert_eq!(of_transaction(Some(&flat), multiplied).unwrap(), r#"{"multiplier":"1000"}"#);
        let weighed = OfTransaction { multiplier: Factor::ONE, ..of };
        assert_eq!(of_transaction(None, weighed).unwrap(), r#"{"quota_weights":{"output":"4"}}"#);
    }

    #[test]
    fn the_text_of_a_version_names_each_price_once() {
        let price = |micros| Some(Money::from_micros(micros));
        let given = std::array::from_fn(|class| price(1_000_000 * (class as i64 + 1)));
        let mut draft = Draft { given, ..Draft::default() };
        draft.tiers =
            vec![(5, Given::default()), (9, [price(1), None, None, None, None, price(2), None, None, None, None])];
        draft.service_tiers.insert(ServiceTier::from_stored("batch"), "0.5".parse().unwrap());
        draft.max_tokens = Some(7);
        let text = beside_columns(&draft.check().unwrap()).unwrap();
        let expected = concat!(
            r#"{"prices":{"cache_write":"3","cache_write_1h":"4","audio_input":"5","reasoning":"7","audio_output":"8","#,
            r#""request":"9","image":"10"},"tiers":[{"above_input_tokens":5,"prices":{}},"#,
            r#"{"above_input_tokens":9,"prices":{"input":"0.000001","output":"0.000002"}}],"#,
            r#""service_tiers":{"batch":"0.5"},"max_tokens":7}"#,
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn details_that_make_no_sense_are_refused() {
        for bad in [
            "",
            "[]",
            r#"{"input":"1"}"#,
            r#"{"prices":{"inputs":"1"}}"#,
            r#"{"prices":{"input":"1"}}"#,
            r#"{"prices":{"cached_input":"1"}}"#,
            r#"{"prices":{"output":"1"}}"#,
            r#"{"prices":{"image":"x"}}"#,
            r#"{"prices":{"image":1}}"#,
            r#"{"tiers":[{"prices":{}}]}"#,
            r#"{"tiers":[{"above_input_tokens":-1,"prices":{}}]}"#,
            r#"{"service_tiers":{"batch":"-1"}}"#,
            r#"{"aliases":["*"]}"#,
            r#"{"multiplier":"x"}"#,
            r#"{"quota_weights":{"inputs":"1"}}"#,
            r#"{"quota_weights":{"input":"-1"}}"#,
        ] {
            assert_eq!(read_beside(&mut Draft::default(), bad).unwrap_err().field, "price_details", "{bad}");
        }
    }
}
