//! The weights of the parts of a call in a free quota that counts tokens.

use std::collections::BTreeMap;

use crate::biz::values::{
    class::{CLASSES, Class, parts},
    factor::Factor,
    invalid::Invalid,
    usage::Usage,
};

const PER_ONE: u128 = 1_000_000;

/// Units of the free quota for one token, call or image, by class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaWeights([Factor; CLASSES]);

impl QuotaWeights {
    /// Input and output, every part of them included. Calls and images count nothing.
    pub const ALL_TOKENS: Self = {
        let mut all = [Factor::ONE; CLASSES];
        all[Class::Request as usize] = Factor::ZERO;
        all[Class::Image as usize] = Factor::ZERO;
        Self(all)
    };

    /// A class without a weight follows another one, as its price does.
    pub fn new(given: [Option<Factor>; CLASSES]) -> Self {
        let mut all = Self::ALL_TOKENS;
        for class in Class::ALL {
            all.0[class as usize] = given[class as usize].unwrap_or(all.followed(class));
        }
        all
    }

    /// From weights by the names of their classes.
    ///
    /// # Errors
    /// [`Invalid`] names the class that is none, or whose weight is no [`Factor`].
    pub fn of_names(names: &BTreeMap<String, String>) -> Result<Self, Invalid> {
        let mut given = [None; CLASSES];
        for (name, weight) in names {
            let class = Class::ALL.into_iter().find(|class| class.name() == name);
            let class = class.ok_or_else(|| Invalid::new(name.as_str(), "is no class of tokens"))?;
            let weight = weight.parse().map_err(|why: &str| Invalid::new(name.as_str(), why))?;
            given[class as usize] = Some(weight);
        }
        Ok(Self::new(given))
    }

    /// The fewest weights from which [`Self::of_names`] makes these.
    pub fn names(&self) -> BTreeMap<String, String> {
        let differs = Class::ALL.into_iter().filter(|class| self.weight(*class) != self.followed(*class));
        differs.map(|class| (class.name().to_owned(), self.weight(class).to_string())).collect()
    }

    /// Whether the units of a call are its tokens.
    pub fn counts_all_tokens(&self) -> bool {
        *self == Self::ALL_TOKENS
    }

    /// The units of a call, to the nearest one, halves up. A call with tokens has at least one unit.
    ///
    /// # Errors
    /// [`Invalid`] names a part of the usage that is above its whole.
    pub fn units(&self, usage: Usage) -> Result<u64, Invalid> {
        if self.counts_all_tokens() {
            return Ok(usage.tokens());
        }
        let weighed = Class::ALL.into_iter().zip(parts(&usage, 1)?);
        // The sum of ten products of 32 and 30 bits fits 128 bits.
        let exact: u128 =
            weighed.map(|(class, units)| u128::from(units) * u128::from(self.weight(class).millionths())).sum();
        let units = u64::try_from((exact + PER_ONE / 2) / PER_ONE).unwrap_or(u64::MAX);
        Ok(units.max(u64::from(usage.tokens() > 0)))
    }

    fn weight(&self, class: Class) -> Factor {
        self.0[class as usize]
    }

    /// The weight of a class that has none of its own. The class that it follows stands before it.
    fn followed(&self, class: Class) -> Factor {
        class.fallback().map_or(Self::ALL_TOKENS.weight(class), |fallback| self.weight(fallback))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(names: &[(&str, &str)]) -> Result<QuotaWeights, Invalid> {
        let named = names.iter().map(|(name, weight)| ((*name).to_owned(), (*weight).to_owned()));
        QuotaWeights::of_names(&named.collect())
    }

    #[test]
    fn the_units_of_a_call_are_its_parts_by_their_weights() {
        let usage = Usage {
            cached_input_tokens: 60,
            cache_write_1h_tokens: 10,
            reasoning_tokens: 7,
            images: 2,
            ..Usage::of_text(100, 20)
        };
        for (names, units) in [
            (&[][..], 120),
            (&[("cached_input", "0.1")], 66),
            (&[("cached_input", "0")], 60),
            (&[("cached_input", "0.124")], 67),
            (&[("cached_input", "0.125")], 68),
            (&[("output", "4")], 180),
            (&[("output", "4"), ("reasoning", "1")], 159),
            (&[("cache_write", "2")], 130),
            (&[("input", "2")], 220),
            (&[("input", "0"), ("output", "0"), ("image", "1.5"), ("request", "3")], 6),
            // A call that is delivered counts, or it would be free without end.
            (&[("input", "0"), ("output", "0")], 1),
        ] {
            assert_eq!(weights(names).unwrap().units(usage), Ok(units), "{names:?}");
        }
        assert_eq!(weights(&[("input", "0")]).unwrap().units(Usage::default()), Ok(0));
        let all = Usage { images: u32::MAX, ..Usage::of_text(u32::MAX, u32::MAX) };
        let most = weights(&[("input", "1000"), ("output", "1000"), ("image", "1000")]).unwrap();
        assert_eq!(most.units(all), Ok(3_000 * u64::from(u32::MAX)));
        let above = Usage { cached_input_tokens: 2, ..Usage::of_text(1, 0) };
        let refused = weights(&[("output", "2")]).unwrap().units(above).unwrap_err();
        assert_eq!(refused.field, "usage.cached_input_tokens");
    }

    #[test]
    fn weights_survive_their_names() {
        for names in [
            &[][..],
            &[("cached_input", "0.1"), ("image", "100")],
            &[("cache_write_1h", "1"), ("cached_input", "1"), ("input", "0.5")],
            &[("audio_output", "1"), ("output", "4"), ("reasoning", "0")],
        ] {
            let weights = weights(names).unwrap();
            let named: Vec<_> = weights.names().into_iter().collect();
            let expected: Vec<_> = names.iter().map(|(name, weight)| (name.to_string(), weight.to_string())).collect();
            assert_eq!((named, QuotaWeights::of_names(&weights.names())), (expected, Ok(weights)));
        }
        assert!(weights(&[("cached_input", "1"), ("image", "0")]).unwrap().counts_all_tokens());
        for (name, weight) in [("inputs", "1"), ("input", "-1"), ("input", "1001"), ("input", "x")] {
            assert_eq!(weights(&[(name, weight)]).unwrap_err().field, name);
        }
    }
}
