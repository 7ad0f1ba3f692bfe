//! Reads the price list that LiteLLM publishes: a JSON object with an entry for each model, whose costs
//! are dollars for one token, call or image.

mod members;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use rust_decimal::{Decimal, RoundingStrategy};
use serde_json::{Map, Value};

use self::members::{Cost, Member, member};
use super::list::{Draft, Given, PriceList};
use crate::biz::values::{
    class::{ByClass, Class},
    factor::Factor,
    ids::{ModelName, ServiceTier},
    invalid::Invalid,
    money::Money,
};

/// Most models of one file.
const MAX_MODELS: usize = 100_000;
/// The entry that explains the members.
const SAMPLE: &str = "sample_spec";

/// The members that are read beside the costs.
const USED: [&str; 4] = ["mode", "max_tokens", "max_input_tokens", "max_output_tokens"];

/// The prices in a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PriceFile {
    pub models: BTreeMap<ModelName, PriceList>,
    /// Entries without usable prices, each with the reason.
    pub skipped: Vec<(String, String)>,
    /// Members that price nothing here, each with the number of its entries.
    pub ignored: BTreeMap<String, usize>,
    /// Prices that could not be taken over as they are.
    pub notes: Vec<String>,
}

/// The conversion of a cost into a price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conversion {
    /// Units of the account's currency for a dollar.
    pub rate: Decimal,
    /// The markup: 1.2 adds a fifth.
    pub factor: Decimal,
}

impl Conversion {
    /// The price of a million tokens, or of one call or image.
    fn price(self, class: Class, cost: Decimal) -> Option<Money> {
        let units = if class.is_per_million() { Decimal::from(1_000_000) } else { Decimal::ONE };
        let exact = cost.checked_mul(units)?.checked_mul(self.rate)?.checked_mul(self.factor)?;
        let rounded = exact.round_dp_with_strategy(6, RoundingStrategy::MidpointAwayFromZero);
        // A price above zero is never nothing.
        let least = if exact.is_zero() { Decimal::ZERO } else { Decimal::new(1, 6) };
        Money::from_decimal(rounded.max(least)).filter(|price| *price <= Money::MAX)
    }
}

/// Reads a file.
///
/// # Errors
/// [`Invalid`] names `file` if the text is no JSON object of entries.
pub fn read(text: &str, conversion: Conversion) -> Result<PriceFile, Invalid> {
    let refused = |why: String| Invalid::new("file", why);
    let file: Value = serde_json::from_str(text).map_err(|error| refused(format!("is not JSON: {error}")))?;
    let Value::Object(entries) = file else { return Err(refused("must be a JSON object of models".into())) };
    if entries.len() > MAX_MODELS {
        return Err(refused(format!("has more than {MAX_MODELS} models")));
    }
    let mut found = PriceFile::default();
    for (name, entry) in &entries {
        if name == SAMPLE {
            continue;
        }
        match found.read_entry(name, entry, conversion) {
            Ok((model, prices)) => drop(found.models.insert(model, prices)),
            Err(why) => found.skipped.push((name.clone(), why)),
        }
    }
    Ok(found)
}

/// The costs of one entry.
#[derive(Default)]
struct Costs {
    base: ByClass<Option<Decimal>>,
    /// By the bound of the input.
    tiers: BTreeMap<u32, ByClass<Option<Decimal>>>,
    /// By the service tier, then by the bound of the input; 0 for the base.
    service_tiers: BTreeMap<&'static str, BTreeMap<u32, ByClass<Option<Decimal>>>>,
}

impl Costs {
    /// The cost of a class above a bound, by the rules of a version that an import writes: a tier without a
    /// cost of its own has that of the base, and a class without one follows another class.
    fn cost(&self, above: u32, class: Class) -> Option<Decimal> {
        // A bound that is no tier has the costs of the tier below it.
        let tier = self.tiers.range(..=above).next_back().map(|(_, costs)| costs);
        let own = tier.and_then(|costs| costs[class as usize]).or(self.base[class as usize]);
        own.or_else(|| self.cost(above, class.fallback()?))
    }
}

impl PriceFile {
    fn read_entry(
        &mut self,
        name: &str,
        entry: &Value,
        conversion: Conversion,
    ) -> Result<(ModelName, PriceList), String> {
        let model = ModelName::parse("model", name).map_err(|error| error.to_string())?;
        let Value::Object(members) = entry else { return Err("is no entry of a model".into()) };
        let costs = self.costs(members)?;
        let unread = unread_costs(members);
        let mut draft = Draft { max_tokens: max_tokens(members), ..Draft::default() };
        draft.given = converted(&costs.base, conversion)?;
        let [input, output] = [Class::Input, Class::Output].map(|class| draft.given[class as usize]);
        let is_priced = draft.given.iter().any(Option::is_some);
        match (input, output) {
            _ if !is_priced => return Err("has no price of tokens, calls or images".into()),
            (Some(_), Some(_)) => {}
            // A price that is not known is never zero, unless the kind of model has no such tokens.
            _ if may_be_free(members) => {
                if let Some(name) = unread.first() {
                    return Err(format!("has {name}, which has no class"));
                }
                draft.given[Class::Input as usize] = input.or(Some(Money::ZERO));
                draft.given[Class::Output as usize] = output.or(Some(Money::ZERO));
            }
            (None, _) => return Err("has no input_cost_per_token".into()),
            (_, None) => return Err("has no output_cost_per_token".into()),
        }
        for (above, tier) in &costs.tiers {
            let mut given = converted(tier, conversion)?;
            // A cost that the tier does not name stays that of the base.
            for (price, base) in given.iter_mut().zip(draft.given) {
                *price = price.or(base);
            }
            draft.tiers.push((*above, given));
        }
        for service_tier in costs.service_tiers.keys() {
            if let Some(factor) = self.factor(name, service_tier, &costs) {
                draft.service_tiers.insert(ServiceTier::from_stored(*service_tier), factor);
            }
        }
        let prices = draft.check().map_err(|error| error.to_string())?;
        if !unread.is_empty() {
            self.notes.push(format!("{name}: these costs have no class and are left out: {}", unread.join(", ")));
        }
        Ok((model, prices))
    }

    /// Sorts the members of an entry.
    fn costs(&mut self, members: &Map<String, Value>) -> Result<Costs, String> {
        let mut costs = Costs::default();
        for (name, value) in members {
            let cost = match member(name) {
                Member::Cost(_) if value.is_null() => continue,
                Member::Cost(cost) => cost,
                Member::Other if USED.contains(&name.as_str()) => continue,
                Member::Other => {
                    *self.ignored.entry(name.clone()).or_default() += 1;
                    continue;
                }
            };
            let amount = number(value).filter(|amount| !amount.is_sign_negative() || amount.is_zero());
            let amount = amount.ok_or_else(|| format!("{name} is no cost: {value}"))?;
            let Cost { class, above, service_tier, is_substitute } = cost;
            let of_class = match (above, service_tier) {
                (None, None) => &mut costs.base[class as usize],
                (Some(above), None) => &mut costs.tiers.entry(above).or_default()[class as usize],
                (above, Some(name)) => {
                    let of_tier = costs.service_tiers.entry(name).or_default();
                    &mut of_tier.entry(above.unwrap_or_default()).or_default()[class as usize]
                }
            };
            if of_class.is_none() || !is_substitute {
                *of_class = Some(amount);
            }
        }
        Ok(costs)
    }

    /// The factor of a service tier: the ratio of its costs to those without it, also above each bound of the
    /// input. If the ratios differ, the largest counts, so that no call is sold below its cost.
    fn factor(&mut self, model: &str, service_tier: &str, costs: &Costs) -> Option<Factor> {
        let (mut ratios, mut lost) = (Vec::new(), Vec::new());
        for (above, of_tier) in costs.service_tiers.get(service_tier)? {
            for (class, cost) in Class::ALL.into_iter().zip(of_tier) {
                let Some(cost) = *cost else { continue };
                match costs.cost(*above, class).and_then(|base| cost.checked_div(base)) {
                    Some(ratio) => ratios.push(ratio.round_dp(6)),
                    None if cost.is_zero() => {}
                    None => lost.push(class.name()),
                }
            }
        }
        if !lost.is_empty() {
            lost.dedup();
            let lost = lost.join(", ");
            self.notes
                .push(format!("{model}: the costs of {service_tier} for {lost} have no base cost and are left out"));
        }
        let largest = *ratios.iter().max()?;
        if ratios.iter().any(|ratio| *ratio != largest) {
            self.notes.push(format!(
                "{model}: the costs of {service_tier} have no common factor; the largest one, {}, is used",
                largest.normalize()
            ));
        }
        let factor = largest.normalize().to_string().parse();
        if factor.is_err() {
            self.notes.push(format!("{model}: {service_tier} has no factor from 0 to 1000 and is left out"));
        }
        factor.ok()
    }
}

fn converted(costs: &ByClass<Option<Decimal>>, conversion: Conversion) -> Result<Given, String> {
    let mut given = Given::default();
    for (class, cost) in Class::ALL.into_iter().zip(costs) {
        if let Some(cost) = cost {
            let price = conversion.price(class, *cost);
            given[class as usize] = Some(price.ok_or_else(|| format!("the price of {} is too large", class.name()))?);
        }
    }
    Ok(given)
}

/// The number in its shortest decimal form.
fn number(value: &Value) -> Option<Decimal> {
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        _ => return None,
    };
    Decimal::from_scientific(&text).or_else(|_| text.parse()).ok()
}

/// The costs of tokens, calls or other parts that no class has. A cost of nothing is none.
fn unread_costs(members: &Map<String, Value>) -> Vec<&str> {
    let is_cost = |name: &str| name.starts_with("input_cost_") || name.starts_with("output_cost_");
    let is_unread = |name: &str| is_cost(name) && member(name) == Member::Other;
    let costs = members.iter().filter(|(name, value)| {
        is_unread(name) && !value.is_null() && number(value).is_none_or(|amount| !amount.is_zero())
    });
    costs.map(|(name, _)| name.as_str()).collect()
}

/// Whether a model of this kind may have no tokens of input or output.
fn may_be_free(members: &Map<String, Value>) -> bool {
    const KINDS: [&str; 8] = [
        "embedding",
        "rerank",
        "moderation",
        "image_generation",
        "image_edit",
        "audio_transcription",
        "audio_speech",
        "search",
    ];
    members.get("mode").and_then(Value::as_str).is_some_and(|mode| KINDS.contains(&mode))
}

/// The tokens of the largest call.
fn max_tokens(members: &Map<String, Value>) -> Option<u32> {
    let of = |name: &str| members.get(name).and_then(number).and_then(|number| u32::try_from(number).ok());
    let both =
        of("max_input_tokens").zip(of("max_output_tokens")).and_then(|(input, output)| input.checked_add(output));
    both.or(of("max_tokens"))
}
