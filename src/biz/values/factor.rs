//! Factors on prices, exact to a millionth.

use std::{fmt, str::FromStr};

use rust_decimal::Decimal;

use super::{invalid::Invalid, money::Money};

/// A factor from 0 to 1000 with six decimal places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Factor(u32);

impl Factor {
    pub const ZERO: Factor = Factor(0);
    pub const ONE: Factor = Factor(1_000_000);
    /// A thousand.
    pub const MAX: Factor = Factor(1_000_000_000);

    pub fn millionths(self) -> u32 {
        self.0
    }

    /// From a wire double, by its shortest decimal form.
    ///
    /// # Errors
    /// [`Invalid`] names `field`.
    pub fn from_wire(field: &str, value: f64) -> Result<Self, Invalid> {
        let of_money = Money::from_wire(field, value)?;
        Self::of(of_money).ok_or_else(|| Invalid::new(field, REFUSED))
    }

    fn of(value: Money) -> Option<Self> {
        u32::try_from(value.micros()).ok().map(Self).filter(|factor| *factor <= Self::MAX)
    }

    fn to_money(self) -> Money {
        Money::from_micros(self.0.into())
    }

    pub fn to_decimal(self) -> Decimal {
        self.to_money().to_decimal()
    }

    /// The nearest wire double.
    pub fn to_wire(self) -> f64 {
        self.to_money().to_wire()
    }
}

const REFUSED: &str = "must be a number from 0 to 1000 with at most 6 decimal places";

impl FromStr for Factor {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().ok().and_then(Self::of).ok_or(REFUSED)
    }
}

impl fmt::Display for Factor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_money().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_factor_is_a_decimal_from_nothing_to_a_thousand() {
        for (text, millionths) in [("0", 0), ("0.5", 500_000), ("1", 1_000_000), ("1.200001", 1_200_001)] {
            let factor: Factor = text.parse().unwrap();
            assert_eq!((factor.millionths(), factor.to_string().as_str()), (millionths, text));
        }
        assert_eq!("1000".parse(), Ok(Factor::MAX));
        for bad in ["", "-1", "1000.000001", "0.0000001", "x", "1e2"] {
            assert!(bad.parse::<Factor>().is_err(), "{bad:?}");
        }
        assert_eq!(Factor::from_wire("f", 0.5), Ok(Factor(500_000)));
        assert_eq!(Factor::from_wire("f", -0.5).unwrap_err().field, "f");
    }
}
