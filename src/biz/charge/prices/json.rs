//! The JSON form of prices, in tables and in audit events. Amounts and factors are texts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    alias::Alias,
    list::{Draft, Given, PriceList},
};
use crate::biz::{
    account::quota_weights::QuotaWeights,
    values::{class::Class, factor::Factor, ids::ServiceTier, invalid::Invalid, money::Money},
};

/// The parts of a price list. Unknown members are refused, because they could be prices.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Details {
    /// By the names of their classes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    prices: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tiers: Vec<TierDetails>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    service_tiers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    aliases: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    /// The factor of a plan, on a transaction.
    #[serde(skip_serializing_if = "Option::is_none")]
    multiplier: Option<String>,
    /// By the names of their classes, on a transaction.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    quota_weights: BTreeMap<String, String>,
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

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TierDetails {
    above_input_tokens: u32,
    prices: BTreeMap<String, String>,
}

/// The classes that have columns of their own.
const COLUMNS: [Class; 3] = [Class::Input, Class::CachedInput, Class::Output];

/// The part of a price list that has no column of its own, and the details of a transaction; `None` if
/// there is none. A transaction that no model prices has no list.
pub fn beside_columns(list: Option<&PriceList>, of: OfTransaction) -> Option<String> {
    let list = list.filter(|list| !list.is_flat());
    if list.is_none() && of == OfTransaction::NONE {
        return None;
    }
    let mut draft = list.map_or_else(Draft::default, PriceList::draft);
    COLUMNS.into_iter().for_each(|class| draft.given[class as usize] = None);
    Some(details(&draft, of).to_string())
}

/// The whole price list.
pub fn whole(list: &PriceList) -> serde_json::Value {
    details(&list.draft(), OfTransaction::NONE)
}

fn details(draft: &Draft, OfTransaction { multiplier, weights }: OfTransaction) -> serde_json::Value {
    let details = Details {
        prices: by_name(&draft.given),
        tiers: draft
            .tiers
            .iter()
            .map(|(above_input_tokens, given)| TierDetails {
                above_input_tokens: *above_input_tokens,
                prices: by_name(given),
            })
            .collect(),
        service_tiers: draft
            .service_tiers
            .iter()
            .map(|(name, factor)| (name.to_string(), factor.to_string()))
            .collect(),
        aliases: draft.aliases.iter().map(Alias::to_string).collect(),
        max_tokens: draft.max_tokens,
        multiplier: (multiplier != Factor::ONE).then(|| multiplier.to_string()),
        quota_weights: weights.names(),
    };
    // Texts, numbers and lists of them always have a JSON form.
    serde_json::to_value(details).unwrap_or_default()
}

fn by_name(given: &Given) -> BTreeMap<String, String> {
    let named = Class::ALL.into_iter().zip(given);
    named.filter_map(|(class, price)| Some((class.name().to_owned(), (*price)?.to_string()))).collect()
}

/// Reads the text of [`beside_columns`] into a draft that has the prices of the columns, and returns the
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
        draft.aliases = vec![Alias::parse("gpt*").unwrap()];
        draft.max_tokens = Some(128_000);
        let list = draft.clone().check().unwrap();
        let weights = [("output", "4")].map(|(name, weight)| (name.to_owned(), weight.to_owned())).into();
        let of =
            OfTransaction { multiplier: "1.2".parse().unwrap(), weights: QuotaWeights::of_names(&weights).unwrap() };
        let text = beside_columns(Some(&list), of).unwrap();
        let mut read = Draft::default();
        COLUMNS.into_iter().for_each(|class| read.given[class as usize] = list.base().given(class));
        assert_eq!(read_beside(&mut read, &text), Ok(of));
        assert_eq!((read.clone(), read.check().unwrap()), (draft, list));

        let flat = PriceList::flat(yuan("1").unwrap(), None, yuan("2").unwrap());
        assert_eq!(beside_columns(Some(&flat), OfTransaction::NONE), None);
        assert_eq!(beside_columns(None, OfTransaction::NONE), None);
        let multiplied = OfTransaction { multiplier: Factor::MAX, ..OfTransaction::NONE };
        assert_eq!(beside_columns(Some(&flat), multiplied).unwrap(), r#"{"multiplier":"1000"}"#);
        let weighed = OfTransaction { multiplier: Factor::ONE, ..of };
        assert_eq!(beside_columns(None, weighed).unwrap(), r#"{"quota_weights":{"output":"4"}}"#);
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
