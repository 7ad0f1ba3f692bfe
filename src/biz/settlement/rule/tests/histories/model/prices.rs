//! The cost of calls, counted token by token and unit by unit.

use super::{Call, Moment};

/// Tokens of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tokens {
    pub input: u32,
    /// The part of the input that was cached.
    pub cached: u32,
    pub output: u32,
    /// The part of the output that was reasoning.
    pub reasoning: u32,
}

impl Tokens {
    pub fn all(self) -> u32 {
        self.input + self.output
    }

    /// Two cached tokens count as one, and a token of reasoning as three. `None` if more is a part than
    /// there is.
    pub fn weighed(self) -> Option<u32> {
        let (input, output) = (self.input.checked_sub(self.cached)?, self.output.checked_sub(self.reasoning)?);
        let mut units = input + output;
        for token in 0..self.cached {
            // The first half of a unit counts as a whole one.
            units += u32::from(token % 2 == 0);
        }
        for _ in 0..self.reasoning {
            units += 3;
        }
        Some(units)
    }

    /// With the output of an earlier report, if that is larger.
    pub fn with_output_of(self, before: Option<Tokens>) -> Tokens {
        match before {
            Some(Tokens { output, reasoning, .. }) if output > self.output => Tokens { output, reasoning, ..self },
            _ => self,
        }
    }

    /// With a counted output, which is text if it is smaller than before.
    pub fn with_output(self, output: u32) -> Tokens {
        let reasoning = if output < self.output { 0 } else { self.reasoning };
        Tokens { output, reasoning, ..self }
    }
}

/// A service: its price, and its free units per month.
#[derive(Debug, Clone, Copy)]
pub struct Service {
    pub priced: Priced,
    pub free_units: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priced {
    PerUnit(i64),
    /// The prices of the model; units are calls.
    Calls,
    /// The prices of the model; units are tokens.
    Tokens,
    /// The prices of the model; units are tokens by their weights.
    Weighed,
}

pub const SERVICES: [Service; 5] = [
    Service { priced: Priced::PerUnit(3), free_units: 10 },
    Service { priced: Priced::PerUnit(7), free_units: 10 },
    Service { priced: Priced::Calls, free_units: 2 },
    Service { priced: Priced::Tokens, free_units: 20 },
    Service { priced: Priced::Weighed, free_units: 20 },
];

/// A price version: the prices of a million tokens of input, of cached input and of output, from a
/// minute of the history on.
#[derive(Debug, Clone, Copy)]
pub struct Version {
    pub from_minute: u32,
    pub prices: [i64; 3],
    /// The price of reasoning; without one it costs as output.
    pub reasoning: Option<i64>,
    /// The prices of a call whose input is above a number of tokens.
    pub tier: Option<(u32, [i64; 3])>,
}

/// A version without other prices.
const fn flat(from_minute: u32, prices: [i64; 3]) -> Version {
    Version { from_minute, prices, reasoning: None, tier: None }
}

/// The versions of each model. A token costs about as much as a unit of a service, and its price
/// mostly has a fraction.
pub const MODELS: [&[Version]; 2] = [
    &[
        Version { tier: Some((8, [2_500_001, 499_999, 3_500_000])), ..flat(0, [1_500_000, 499_999, 2_500_000]) },
        Version { reasoning: Some(9_100_000), ..flat(6, [3_000_000, 1_000_000, 7_333_333]) },
        flat(24 * 60, [500_000, 0, 1_000_001]),
    ],
    &[
        Version {
            reasoning: Some(1_000_000),
            tier: Some((5, [1_000_000, 125_000, 4_000_000])),
            ..flat(0, [2_000_000, 250_000, 8_000_000])
        },
        flat(20, [400_000, 400_000, 400_000]),
    ],
];

/// A version: its model, its index among the model's versions, and whether the plan doubles its prices.
pub type VersionNumber = (u8, usize, bool);

pub fn version_in_force(model: u8, now: Moment, is_planned: bool) -> VersionNumber {
    let mut last = 0;
    for (number, version) in MODELS[usize::from(model)].iter().enumerate() {
        if version.from_minute <= now.minute {
            last = number;
        }
    }
    (model, last, is_planned)
}

/// The cost of tokens at a version. `None` if more input was cached than sent, if there was more
/// reasoning than output, or if there are no tokens.
pub fn cost_of(tokens: Option<Tokens>, (model, number, is_planned): VersionNumber) -> Option<i64> {
    let is_possible = |tokens: &Tokens| tokens.cached <= tokens.input && tokens.reasoning <= tokens.output;
    let tokens = tokens.filter(|tokens| tokens.all() > 0 && is_possible(tokens))?;
    let version = MODELS[usize::from(model)][number];
    let ([input, cached, output], reasoning) = match version.tier {
        Some((above, prices)) if tokens.input > above => (prices, prices[2]),
        _ => (version.prices, version.reasoning.unwrap_or(version.prices[2])),
    };
    let mut millionths = 0;
    for token in 0..tokens.input {
        millionths += if token < tokens.cached { cached } else { input };
    }
    for token in 0..tokens.output {
        millionths += if token < tokens.reasoning { reasoning } else { output };
    }
    if is_planned {
        millionths += millionths;
    }
    let mut cost = 0;
    while millionths >= 1_000_000 {
        millionths -= 1_000_000;
        cost += 1;
    }
    // A cost above zero is never rounded to zero.
    let is_next = millionths >= 500_000 || (cost == 0 && millionths > 0);
    Some(if is_next { cost + 1 } else { cost })
}

/// The quote of a call.
#[derive(Debug, Clone, Copy)]
pub struct Quoted {
    pub units: u32,
    /// The cost of all units without free quota.
    pub cost: i64,
    /// The price version, if the call names no cost.
    pub version: Option<VersionNumber>,
}

/// Prices a call; `None` if required tokens are missing. In the plan, a unit costs one more, and tokens
/// cost the double.
pub fn quote(call: Call, now: Moment, is_planned: bool) -> Option<Quoted> {
    let tokens = call.tokens.filter(|tokens| tokens.all() > 0);
    let units = match SERVICES[usize::from(call.service)].priced {
        Priced::PerUnit(price) => {
            let price = price + i64::from(is_planned);
            let cost = call.cost.unwrap_or_else(|| (0..call.count).map(|_| price).sum());
            return Some(Quoted { units: call.count, cost, version: None });
        }
        Priced::Calls => call.count,
        Priced::Tokens => tokens?.all(),
        Priced::Weighed => tokens?.weighed()?,
    };
    match call.cost {
        Some(cost) => Some(Quoted { units, cost, version: None }),
        None => {
            let version = version_in_force(call.model, now, is_planned);
            Some(Quoted { units, cost: cost_of(tokens, version)?, version: Some(version) })
        }
    }
}

/// Free units, and the cost of the paid ones.
pub fn split(units: u32, cost: i64, free_left: u32) -> (u32, i64) {
    let (mut free, mut paid) = (0, 0);
    for _ in 0..units {
        if free < free_left {
            free += 1;
        } else {
            paid += 1;
        }
    }
    (free, nearest(cost, paid, units))
}

/// `cost * part / whole`, rounded to the nearest, halves up. A result above zero is at least one.
pub fn nearest(cost: i64, part: u32, whole: u32) -> i64 {
    let (cost, part, whole) = (i128::from(cost), i128::from(part), i128::from(whole));
    let nearest = (2 * cost * part + whole) / (2 * whole);
    let least = i128::from(cost > 0 && part > 0);
    i64::try_from(nearest.max(least)).unwrap()
}
