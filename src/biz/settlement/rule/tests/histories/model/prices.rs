//! The cost of calls, counted token by token and unit by unit.

use super::{Call, Moment};

/// Tokens of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tokens {
    pub input: u32,
    /// The part of the input that was cached.
    pub cached: u32,
    pub output: u32,
}

impl Tokens {
    pub fn all(self) -> u32 {
        self.input + self.output
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
}

pub const SERVICES: [Service; 4] = [
    Service { priced: Priced::PerUnit(3), free_units: 10 },
    Service { priced: Priced::PerUnit(7), free_units: 10 },
    Service { priced: Priced::Calls, free_units: 2 },
    Service { priced: Priced::Tokens, free_units: 20 },
];

/// A price version: the prices of a million tokens of input, of cached input and of output, from a
/// minute of the history on.
#[derive(Debug, Clone, Copy)]
pub struct Version {
    pub from_minute: u32,
    pub prices: [i64; 3],
}

/// The versions of each model. A token costs about as much as a unit of a service, and its price
/// mostly has a fraction.
pub const MODELS: [&[Version]; 2] = [
    &[
        Version { from_minute: 0, prices: [1_500_000, 499_999, 2_500_000] },
        Version { from_minute: 6, prices: [3_000_000, 1_000_000, 7_333_333] },
        Version { from_minute: 24 * 60, prices: [500_000, 0, 1_000_001] },
    ],
    &[
        Version { from_minute: 0, prices: [2_000_000, 250_000, 8_000_000] },
        Version { from_minute: 20, prices: [400_000, 400_000, 400_000] },
    ],
];

/// A version: its model, and its index among the model's versions.
pub type VersionNumber = (u8, usize);

pub fn version_in_force(model: u8, now: Moment) -> VersionNumber {
    let mut last = 0;
    for (number, version) in MODELS[usize::from(model)].iter().enumerate() {
        if version.from_minute <= now.minute {
            last = number;
        }
    }
    (model, last)
}

/// The cost of tokens at a version. `None` if more input was cached than sent, or if there are no
/// tokens.
pub fn cost_of(tokens: Option<Tokens>, (model, number): VersionNumber) -> Option<i64> {
    let tokens = tokens.filter(|tokens| tokens.all() > 0 && tokens.cached <= tokens.input)?;
    let [input, cached, output] = MODELS[usize::from(model)][number].prices;
    let mut millionths = 0;
    for token in 0..tokens.input {
        millionths += if token < tokens.cached { cached } else { input };
    }
    for _ in 0..tokens.output {
        millionths += output;
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

/// Prices a call; `None` if required tokens are missing.
pub fn quote(call: Call, now: Moment) -> Option<Quoted> {
    let tokens = call.tokens.filter(|tokens| tokens.all() > 0);
    let units = match SERVICES[usize::from(call.service)].priced {
        Priced::PerUnit(price) => {
            let cost = call.cost.unwrap_or_else(|| (0..call.count).map(|_| price).sum());
            return Some(Quoted { units: call.count, cost, version: None });
        }
        Priced::Calls => call.count,
        Priced::Tokens => tokens?.all(),
    };
    match call.cost {
        Some(cost) => Some(Quoted { units, cost, version: None }),
        None => {
            let version = version_in_force(call.model, now);
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
