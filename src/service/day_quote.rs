//! The cost of a day of a model at two lists of prices, for the preview of a price version.

use chrono::NaiveDate;

use crate::biz::{
    charge::prices::{Class, PriceList},
    reports::usage::{ModelUse, UseCount, UseSums},
    values::{class::ByClass, ids::ModelName, money::Money},
};

/// The cost of a day of a model at two lists of base prices, without tiers, factors and plans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DayQuote {
    pub day: NaiveDate,
    /// The names of its calls beside that of the model.
    pub aliases: Vec<ModelName>,
    pub calls: i64,
    /// The amount that the calls were charged, after free quotas.
    pub charged: Money,
    /// `None` if nothing prices the calls.
    pub in_force: Option<Money>,
    pub new: Option<Money>,
    /// The calls whose name would have no price with the new version, so that they would be refused.
    pub unpriced: i64,
    /// The entries of the use that are in the sums. An entry has one user, service, model, API key and part of the day.
    pub summed: u64,
    /// All entries of these names, at most [`Self::MOST_COUNTED`]; `None` if they were not counted in time, or if all are
    /// summed.
    pub entries: Option<u64>,
    /// Whether the day has more names or entries than were read.
    pub is_cut: bool,
}

impl DayQuote {
    /// Most entries that are counted.
    pub const MOST_COUNTED: u32 = 100_000;

    /// A day without calls.
    pub(super) fn of(day: NaiveDate, has_price: bool) -> Self {
        Self {
            day,
            aliases: Vec::new(),
            calls: 0,
            charged: Money::ZERO,
            in_force: has_price.then_some(Money::ZERO),
            new: Some(Money::ZERO),
            unpriced: 0,
            summed: 0,
            entries: None,
            is_cut: false,
        }
    }

    /// Adds the calls of a name, with its prices in force and with the new version.
    pub(super) fn add(&mut self, of_name: &ModelUse, prices: [Option<&PriceList>; 2]) {
        let ModelUse { entries, sums, .. } = of_name;
        self.summed += entries;
        self.calls += sums.get(UseCount::Calls);
        self.charged = self.charged.plus(sums.amount);
        let parts = parts_of(sums);
        let [in_force, new] = prices;
        for (sum, prices) in [(&mut self.in_force, in_force), (&mut self.new, new)] {
            if let Some(prices) = prices {
                let cost = prices.cost_of_sums(parts).unwrap_or(Money::MAX);
                *sum = Some(sum.unwrap_or_default().plus(cost).min(Money::MAX));
            }
        }
        if new.is_none() {
            self.unpriced += sums.get(UseCount::Calls);
        }
    }
}

/// The tokens of each class in the sums of many calls.
fn parts_of(sums: &UseSums) -> ByClass<u64> {
    let count = |count| u64::try_from(sums.get(count)).unwrap_or(0);
    let (cached, write) = (count(UseCount::CachedInputTokens), count(UseCount::CacheWriteTokens));
    let (write_1h, audio_in) = (count(UseCount::CacheWrite1hTokens), count(UseCount::AudioInputTokens));
    let (reasoning, audio_out) = (count(UseCount::ReasoningTokens), count(UseCount::AudioOutputTokens));
    let input = count(UseCount::InputTokens).saturating_sub(cached + write + write_1h + audio_in);
    let output = count(UseCount::OutputTokens).saturating_sub(reasoning + audio_out);
    Class::ALL.map(|class| match class {
        Class::Input => input,
        Class::CachedInput => cached,
        Class::CacheWrite => write,
        Class::CacheWrite1h => write_1h,
        Class::AudioInput => audio_in,
        Class::Output => output,
        Class::Reasoning => reasoning,
        Class::AudioOutput => audio_out,
        Class::Request => count(UseCount::Calls),
        Class::Image => count(UseCount::Images),
    })
}
