//! THE PRICING RULE: the prices of one version of a model, and the cost of a call by them.

use std::{collections::BTreeMap, fmt};

use rust_decimal::Decimal;

use super::alias::Alias;
use crate::biz::values::{
    class::{ByClass, CLASSES, Class, parts},
    factor::Factor,
    ids::ServiceTier,
    invalid::Invalid,
    money::Money,
    usage::Usage,
};

/// Most tiers, service tiers and aliases of one version. Each commit and each read of the book passes
/// over them.
pub const MAX_TIERS: usize = 16;
pub const MAX_SERVICE_TIERS: usize = 16;
pub const MAX_ALIASES: usize = 64;

/// The prices that a version gives: for a million tokens, or for one call or image.
pub type Given = ByClass<Option<Money>>;

/// A price for each class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    given: Given,
    /// With the fallbacks.
    all: ByClass<Money>,
}

impl Rates {
    fn new(given: Given) -> Self {
        let mut all = [Money::ZERO; CLASSES];
        // A fallback stands before its class.
        for class in Class::ALL {
            let fallback = class.fallback().map_or(Money::ZERO, |fallback| all[fallback as usize]);
            all[class as usize] = given[class as usize].unwrap_or(fallback);
        }
        Self { given, all }
    }

    /// The rates of a tier. Without prices of its own for input, output, a call or an image, those of
    /// `base` apply; every other class follows the classes of the tier.
    fn of_tier(given: Given, base: &Rates) -> Self {
        let mut completed = given;
        for class in Class::ALL.into_iter().filter(|class| class.fallback().is_none()) {
            let price = &mut completed[class as usize];
            *price = price.or(Some(base.all[class as usize]));
        }
        Self { given, all: Self::new(completed).all }
    }

    pub fn given(&self, class: Class) -> Option<Money> {
        self.given[class as usize]
    }

    pub fn price(&self, class: Class) -> Money {
        self.all[class as usize]
    }
}

/// The rates of calls with a large input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tier {
    /// The tier applies to a call whose whole input is larger than this.
    pub above_input_tokens: u32,
    pub rates: Rates,
}

/// The prices of one version of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceList {
    base: Rates,
    /// By their bounds.
    tiers: Vec<Tier>,
    service_tiers: BTreeMap<ServiceTier, Factor>,
    aliases: Vec<Alias>,
    max_tokens: Option<u32>,
}

/// The parts of a [`PriceList`], as callers and tables give them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Draft {
    pub given: Given,
    pub tiers: Vec<(u32, Given)>,
    pub service_tiers: BTreeMap<ServiceTier, Factor>,
    pub aliases: Vec<Alias>,
    /// The tokens of the largest call of the model.
    pub max_tokens: Option<u32>,
}

impl Draft {
    /// # Errors
    /// [`Invalid`] names the part that makes no sense.
    pub fn check(self) -> Result<PriceList, Invalid> {
        let refused = |field: &str, why: String| Err(Invalid::new(field, why));
        for required in [Class::Input, Class::Output] {
            if self.given[required as usize].is_none() {
                return Err(Invalid::new(required.name(), "is required"));
            }
        }
        let all = self.tiers.iter().map(|(_, given)| given).chain([&self.given]);
        for (class, price) in all.flat_map(|given| Class::ALL.into_iter().zip(given)) {
            if price.is_some_and(|price| price.is_negative() || price > Money::MAX) {
                return refused(class.name(), format!("must be 0 to {}", Money::MAX));
            }
        }
        for (field, count, most) in [
            ("tiers", self.tiers.len(), MAX_TIERS),
            ("service_tiers", self.service_tiers.len(), MAX_SERVICE_TIERS),
            ("aliases", self.aliases.len(), MAX_ALIASES),
        ] {
            if count > most {
                return refused(field, format!("must be {most} at most"));
            }
        }
        let base = Rates::new(self.given);
        let mut tiers: Vec<_> = self
            .tiers
            .into_iter()
            .map(|(above_input_tokens, given)| Tier { above_input_tokens, rates: Rates::of_tier(given, &base) })
            .collect();
        tiers.sort_by_key(|tier| tier.above_input_tokens);
        if tiers.first().is_some_and(|tier| tier.above_input_tokens == 0) {
            return refused("tiers", "above_input_tokens must be above 0".into());
        }
        if tiers.windows(2).any(|pair| pair[0].above_input_tokens == pair[1].above_input_tokens) {
            return refused("tiers", "two have the same above_input_tokens".into());
        }
        let mut aliases = self.aliases;
        aliases.sort();
        aliases.dedup();
        let max_tokens = self.max_tokens.filter(|most| *most > 0);
        Ok(PriceList { base, tiers, service_tiers: self.service_tiers, aliases, max_tokens })
    }
}

/// The work that is priced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work<'a> {
    pub usage: Usage,
    /// The number of calls that the usage belongs to.
    pub calls: u32,
    pub service_tier: Option<&'a ServiceTier>,
}

/// One summand of an amount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceLine {
    /// The name of a class, or [`ROUNDING`].
    pub class: &'static str,
    pub units: u32,
    /// For a million tokens, or for one call or image, before the factor.
    pub price: Money,
    pub factor: Decimal,
    pub amount: Money,
}

/// The line that makes the sum of the lines exact.
pub const ROUNDING: &str = "rounding";

/// Millionths of a millionth of an amount, in which tokens are priced, and twice the places of a factor.
const PER_MICRO: u128 = 1_000_000_000_000_000_000;
const PER_MILLION: u128 = 1_000_000;

impl PriceList {
    /// Prices of three classes, without tiers.
    pub fn flat(input: Money, cached_input: Option<Money>, output: Money) -> Self {
        let mut given = Given::default();
        given[Class::Input as usize] = Some(input);
        given[Class::CachedInput as usize] = cached_input;
        given[Class::Output as usize] = Some(output);
        let (service_tiers, base) = (BTreeMap::new(), Rates::new(given));
        Self { base, tiers: Vec::new(), service_tiers, aliases: Vec::new(), max_tokens: None }
    }

    pub fn base(&self) -> &Rates {
        &self.base
    }

    pub fn tiers(&self) -> &[Tier] {
        &self.tiers
    }

    pub fn service_tiers(&self) -> &BTreeMap<ServiceTier, Factor> {
        &self.service_tiers
    }

    pub fn aliases(&self) -> &[Alias] {
        &self.aliases
    }

    /// The tokens of the largest call of the model, if it is known. It prices nothing.
    pub fn max_tokens(&self) -> Option<u32> {
        self.max_tokens
    }

    /// The tier of a call with this input.
    pub fn tier(&self, input_tokens: u32) -> Option<&Tier> {
        self.tiers.iter().rev().find(|tier| tier.above_input_tokens < input_tokens)
    }

    fn rates(&self, usage: &Usage) -> &Rates {
        self.tier(usage.input_tokens).map_or(&self.base, |tier| &tier.rates)
    }

    fn factor(&self, service_tier: Option<&ServiceTier>) -> Result<Factor, Invalid> {
        let Some(name) = service_tier else { return Ok(Factor::ONE) };
        self.service_tiers.get(name).copied().ok_or_else(|| {
            let known: Vec<_> = self.service_tiers.keys().map(ServiceTier::as_str).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            Invalid::new("service_tier", format!("{name:?} is none of this model ({known})"))
        })
    }

    /// The cost of a call: added up exactly, then rounded once to the nearest millionth, halves up.
    /// A cost above zero is at least a millionth.
    ///
    /// # Errors
    /// [`Invalid`] names a part of the usage that is above its whole, `service_tier` for one that the
    /// model does not have, and `usage` if the cost exceeds [`Money::MAX`].
    pub fn cost(&self, work: Work<'_>, multiplier: Factor) -> Result<Money, Invalid> {
        let rates = self.rates(&work.usage);
        let factors = [self.factor(work.service_tier)?, multiplier];
        let parts = parts(&work.usage, work.calls)?;
        // The sum of ten products of 50, 32 and 20 bits fits 128 bits.
        let exact: u128 = Class::ALL.into_iter().zip(parts).map(|(class, units)| exact(rates, class, units)).sum();
        rounded(exact, factors)
            .map(|micros| micros.max(i64::from(exact > 0 && factors.iter().all(|factor| factor.millionths() > 0))))
            .map(Money::from_micros)
            .filter(|cost| *cost <= Money::MAX)
            .ok_or_else(|| Invalid::new("usage", format!("costs more than {}", Money::MAX)))
    }

    /// The cost of the sums of many calls at the base prices: which calls a tier or a factor applied to is not known
    /// from sums. `None` above the largest amount.
    pub fn cost_of_sums(&self, parts: [u64; CLASSES]) -> Option<Money> {
        let exact = Class::ALL.into_iter().zip(parts).try_fold(0_u128, |sum, (class, units)| {
            let product = u128::from(self.base.price(class).micros().unsigned_abs()).checked_mul(units.into())?;
            let product = if class.is_per_million() { product } else { product.checked_mul(PER_MILLION)? };
            sum.checked_add(product)
        })?;
        let micros = i64::try_from((exact + PER_MILLION / 2) / PER_MILLION).ok()?;
        Some(Money::from_micros(micros)).filter(|cost| *cost <= Money::MAX)
    }

    /// The summands of [`Self::cost`], one for each class that the call has. Their amounts are rounded,
    /// and the last line has the rest if there is one.
    ///
    /// # Errors
    /// As [`Self::cost`].
    pub fn lines(&self, work: Work<'_>, multiplier: Factor) -> Result<Vec<PriceLine>, Invalid> {
        let cost = self.cost(work, multiplier)?;
        let rates = self.rates(&work.usage);
        let factors = [self.factor(work.service_tier)?, multiplier];
        let factor = (factors[0].to_decimal() * factors[1].to_decimal()).normalize();
        let parts = parts(&work.usage, work.calls)?;
        let of_class = |(class, units): (Class, u32)| {
            let price = rates.price(class);
            // A call without a price of its own is nothing to show.
            if units == 0 || (class == Class::Request && price.is_zero()) {
                return None;
            }
            // A part costs no more than the whole, which fits.
            let amount = Money::from_micros(rounded(exact(rates, class, units), factors).unwrap_or(i64::MAX));
            Some(PriceLine { class: class.name(), units, price, factor, amount })
        };
        let mut lines: Vec<_> = Class::ALL.into_iter().zip(parts).filter_map(of_class).collect();
        lines.extend(rounding(&lines, cost));
        Ok(lines)
    }
}

/// The line that completes `lines` to `amount`; `None` if they sum up to it.
pub fn rounding(lines: &[PriceLine], amount: Money) -> Option<PriceLine> {
    let rest = amount.minus(lines.iter().map(|line| line.amount).sum());
    (!rest.is_zero()).then_some(PriceLine {
        class: ROUNDING,
        units: 0,
        price: Money::ZERO,
        factor: Decimal::ONE,
        amount: rest,
    })
}

/// The price of `units`, in millionths of a millionth.
fn exact(rates: &Rates, class: Class, units: u32) -> u128 {
    let product = u128::from(rates.price(class).micros().unsigned_abs()) * u128::from(units);
    if class.is_per_million() { product } else { product * PER_MILLION }
}

/// The nearest millionth of an exact sum times both factors, halves up; `None` if it is too large.
fn rounded(exact: u128, factors: [Factor; 2]) -> Option<i64> {
    let [first, second] = factors.map(|factor| u128::from(factor.millionths()));
    // A product that does not fit is above every amount, unless a factor is zero.
    let factors = first * second;
    let product = if factors == 0 { 0 } else { exact.checked_mul(factors)? };
    i64::try_from(product.checked_add(PER_MICRO / 2)? / PER_MICRO).ok()
}

/// `input/cached_input/output`, and a `+` for further prices.
impl fmt::Display for PriceList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let price = |class| self.base.price(class);
        write!(f, "{}/{}/{}", price(Class::Input), price(Class::CachedInput), price(Class::Output))?;
        if self.is_flat() { Ok(()) } else { f.write_str("+") }
    }
}

impl PriceList {
    /// Whether the prices of input, cached input and output are all that it has.
    pub fn is_flat(&self) -> bool {
        let has_more = Class::ALL
            .into_iter()
            .filter(|class| !matches!(class, Class::Input | Class::CachedInput | Class::Output))
            .any(|class| self.base.given(class).is_some());
        let has_more = has_more || !self.tiers.is_empty() || !self.service_tiers.is_empty();
        !has_more && self.aliases.is_empty() && self.max_tokens.is_none()
    }

    /// The parts of it, to change some of them.
    pub fn draft(&self) -> Draft {
        Draft {
            given: self.base.given,
            tiers: self.tiers.iter().map(|tier| (tier.above_input_tokens, tier.rates.given)).collect(),
            service_tiers: self.service_tiers.clone(),
            aliases: self.aliases.clone(),
            max_tokens: self.max_tokens,
        }
    }

    /// The prices that explain the cost of one call: the tier that applied, the classes that the call
    /// has, and its service tier.
    #[must_use]
    pub fn narrowed(&self, work: Work<'_>) -> Self {
        let is_of_text = |class| matches!(class, Class::Input | Class::CachedInput | Class::Output);
        let rates = self.rates(&work.usage);
        let parts = parts(&work.usage, work.calls).unwrap_or_default();
        let (mut given, mut shown) = (Given::default(), [Money::ZERO; CLASSES]);
        // A fallback stands before its class.
        for (class, units) in Class::ALL.into_iter().zip(parts) {
            let followed = class.fallback().map_or(Money::ZERO, |fallback| shown[fallback as usize]);
            let price = rates.price(class);
            let is_shown = is_of_text(class) || (units > 0 && price != followed);
            given[class as usize] = is_shown.then_some(price);
            shown[class as usize] = if is_shown { price } else { followed };
        }
        let (base, tiers) = match self.tier(work.usage.input_tokens) {
            None => (Rates::new(given), Vec::new()),
            Some(Tier { above_input_tokens, .. }) => {
                let of_text = |class: Class| is_of_text(class).then(|| self.base.price(class));
                let base = Rates::new(Class::ALL.map(of_text));
                let rates = Rates::of_tier(given, &base);
                (base, vec![Tier { above_input_tokens: *above_input_tokens, rates }])
            }
        };
        let named = work.service_tier.and_then(|name| self.service_tiers.get_key_value(name));
        let service_tiers = named.map(|(name, factor)| (name.clone(), *factor)).into_iter().collect();
        Self { base, tiers, service_tiers, aliases: Vec::new(), max_tokens: None }
    }
}

#[cfg(test)]
mod tests;
