//! Exact amounts: whole micro-units of the account's currency.

use std::{fmt, iter::Sum, str::FromStr};

use rust_decimal::Decimal;

use crate::biz::values::invalid::Invalid;

/// An amount of money to six decimal places, held as whole millionths.
///
/// Every single amount and balance lies within ±[`Money::MAX`]; whoever changes a
/// balance checks it with [`Money::checked_add`]. Sums for statistics may go beyond.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Money(i64);

const MICROS_PER_UNIT: i64 = 1_000_000;
const MICROS_PER_HUNDREDTH: i64 = MICROS_PER_UNIT / 100;
const PLACES: usize = 6;

impl Money {
    pub const ZERO: Money = Money(0);
    /// 999,999,999.999999: 15 digits, which a wire double carries exactly, and far
    /// enough from the ends of the integer for sums of thousands of the largest.
    pub const MAX: Money = Money(999_999_999_999_999);

    /// From millionths, as SQLite stores amounts.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    pub const fn micros(self) -> i64 {
        self.0
    }

    pub const fn is_negative(self) -> bool {
        self.0 < 0
    }

    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// A wire double, by its shortest decimal form: 0.1 is a tenth exactly. NaN,
    /// infinities, more than six places and more than [`Money::MAX`] are errors
    /// that name `field`.
    pub fn from_wire(field: &str, value: f64) -> Result<Self, Invalid> {
        if !value.is_finite() {
            return Err(Invalid::new(field, "must be a finite number"));
        }
        // Display of a double is its shortest form that reads back the same.
        value.to_string().parse().map_err(|why: ParseError| Invalid::new(field, why.0))
    }

    /// The nearest wire double.
    pub fn to_wire(self) -> f64 {
        // Parsing rounds correctly where a division would round twice.
        self.to_string().parse().unwrap_or(f64::NAN)
    }

    /// From a database decimal; `None` when it does not fit.
    pub fn from_decimal(value: Decimal) -> Option<Self> {
        let mut scaled = value;
        scaled.rescale(PLACES as u32);
        if scaled != value {
            return None;
        }
        i64::try_from(scaled.mantissa()).ok().map(Self)
    }

    pub fn to_decimal(self) -> Decimal {
        Decimal::new(self.0, PLACES as u32).normalize()
    }

    /// From hundredths, as payment-service counts (fen); `None` beyond ±[`Money::MAX`].
    pub fn from_hundredths(hundredths: i64) -> Option<Self> {
        let micros = hundredths.checked_mul(MICROS_PER_HUNDREDTH)?;
        Some(Self(micros)).filter(|amount| amount.0.unsigned_abs() <= Self::MAX.0.unsigned_abs())
    }

    /// In hundredths; `None` where it is not a whole number of them.
    pub fn to_hundredths(self) -> Option<i64> {
        (self.0 % MICROS_PER_HUNDREDTH == 0).then_some(self.0 / MICROS_PER_HUNDREDTH)
    }

    /// The sum, or `None` beyond ±[`Money::MAX`].
    pub fn checked_add(self, other: Money) -> Option<Self> {
        self.0.checked_add(other.0).map(Self).filter(|sum| sum.0.unsigned_abs() <= Self::MAX.0.unsigned_abs())
    }

    /// `self - other`; the caller knows it fits, as when `other` is covered by `self`.
    pub fn minus(self, other: Money) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// `self + other`; the caller knows it fits.
    pub fn plus(self, other: Money) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// This unit price times `count`, or `None` beyond [`Money::MAX`].
    pub fn times(self, count: u32) -> Option<Self> {
        self.0.checked_mul(i64::from(count)).map(Self).filter(|total| *total <= Self::MAX)
    }

    /// The share `part / whole` of this amount, to the nearest millionth, halves
    /// away from zero. `whole` is at least 1 and `part` at most `whole`.
    pub fn share(self, part: u32, whole: u32) -> Self {
        // The product of an i64 by part/whole <= 1 fits an i64 again.
        Self(self.ratio(part, whole) as i64)
    }

    /// As [`Money::share`], of more than the whole too; `None` beyond ±[`Money::MAX`].
    pub fn scaled(self, part: u32, whole: u32) -> Option<Self> {
        let scaled = i64::try_from(self.ratio(part, whole)).ok()?;
        Some(Self(scaled)).filter(|amount| amount.0.unsigned_abs() <= Self::MAX.0.unsigned_abs())
    }

    fn ratio(self, part: u32, whole: u32) -> i128 {
        let (whole, product) = (i128::from(whole), i128::from(self.0) * i128::from(part));
        let half = whole / 2 * product.signum();
        (product + half) / whole
    }
}

impl std::ops::Neg for Money {
    type Output = Money;
    fn neg(self) -> Money {
        Money(-self.0)
    }
}

/// Sums for replies and proofs; they saturate rather than wrap.
impl Sum for Money {
    fn sum<I: Iterator<Item = Money>>(amounts: I) -> Money {
        Money(amounts.fold(0, |sum, amount| sum.saturating_add(amount.0)))
    }
}

/// Why a text is not an amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(&'static str);

impl FromStr for Money {
    type Err = ParseError;

    /// Plain decimal notation with an optional sign.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) {
            return Err(ParseError("must be a decimal number"));
        }
        if fraction.len() > PLACES {
            return Err(ParseError("must have at most 6 decimal places"));
        }
        let too_large = ParseError("must be at most 999999999.999999");
        let whole: i64 = whole.parse().map_err(|_| too_large.clone())?;
        let fraction: i64 = format!("{fraction:0<PLACES$}").parse().map_err(|_| too_large.clone())?;
        let micros = whole
            .checked_mul(MICROS_PER_UNIT)
            .and_then(|micros| micros.checked_add(fraction))
            .filter(|micros| *micros <= Self::MAX.0)
            .ok_or(too_large)?;
        Ok(Self(if negative { -micros } else { micros }))
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.unsigned_abs();
        let unit = MICROS_PER_UNIT.unsigned_abs();
        let sign = if self.0 < 0 { "-" } else { "" };
        let fraction = format!("{:06}", micros % unit);
        match fraction.trim_end_matches('0') {
            "" => write!(f, "{sign}{}", micros / unit),
            digits => write!(f, "{sign}{}.{digits}", micros / unit),
        }
    }
}

impl fmt::Debug for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn money(text: &str) -> Money {
        text.parse().unwrap()
    }

    #[test]
    fn a_wire_double_is_its_shortest_decimal_form() {
        assert_eq!(Money::from_wire("cost", 0.1).unwrap(), money("0.1"));
        assert_eq!(Money::from_wire("cost", 0.000001).unwrap().micros(), 1);
        assert_eq!(Money::from_wire("cost", -0.0).unwrap(), Money::ZERO);
        assert_eq!(Money::from_wire("cost", 1e8).unwrap(), money("100000000"));
        for bad in [f64::NAN, f64::INFINITY, 0.1 + 0.2, 1e-7, 1e9, f64::MIN_POSITIVE, f64::MAX] {
            assert!(Money::from_wire("cost", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_share_rounds_halves_away_from_zero() {
        assert_eq!(money("0.1").share(2, 3), money("0.066667"));
        assert_eq!(money("0.000001").share(1, 2), money("0.000001"));
        assert_eq!(money("0.000001").share(1, 3), Money::ZERO);
        assert_eq!(money("-0.000001").share(1, 2), money("-0.000001"));
        assert_eq!(Money::MAX.share(1_000_000_000, 1_000_000_000), Money::MAX);
    }

    #[test]
    fn sums_and_products_end_at_the_largest_amount() {
        let (one, most) = (Money(1), Money::MAX);
        assert_eq!(money("1.5").checked_add(money("2.5")), Some(money("4")));
        assert_eq!((most.minus(one).checked_add(one), most.checked_add(one)), (Some(most), None));
        assert_eq!(((-most).plus(one).checked_add(-one), (-most).checked_add(-one)), (Some(-most), None));
        assert_eq!((money("0.1").times(3), most.times(1), most.times(2)), (Some(money("0.3")), Some(most), None));
        assert_eq!((most.scaled(1, 1), most.scaled(1_000_001, 1_000_000)), (Some(most), None));
        assert_eq!(((-most).scaled(2, 2), money("3").scaled(5, 3)), (Some(-most), Some(money("5"))));
        assert_eq!([money("1"), money("-3"), most].into_iter().sum::<Money>(), most.minus(money("2")));
    }

    #[test]
    fn an_amount_is_below_zero_at_zero_or_above() {
        let signs = [Money(-1), Money::ZERO, Money(1)].map(|amount| (amount.is_negative(), amount.is_zero()));
        assert_eq!(signs, [(true, false), (false, true), (false, false)]);
        assert_eq!((-money("2"), format!("{:?}", money("-0.5"))), (money("-2"), "-0.5".into()));
    }

    #[test]
    fn a_decimal_of_more_places_is_no_amount() {
        assert_eq!(Money::from_decimal(Decimal::new(15, 1)), Some(money("1.5")));
        assert_eq!(Money::from_decimal(Decimal::new(1, 7)), None);
    }

    #[test]
    fn text_that_is_no_amount_is_refused() {
        for bad in ["", "-", ".5", "1e3", "1,5", "+1", "1.0000001", "1000000000", "٣", "9999999999999999999"] {
            assert!(bad.parse::<Money>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn amounts_survive_text_and_decimal(micros in -Money::MAX.0..=Money::MAX.0) {
            let amount = Money(micros);
            prop_assert_eq!(amount.to_string().parse::<Money>().unwrap(), amount);
            prop_assert_eq!(Money::from_decimal(amount.to_decimal()), Some(amount));
        }

        #[test]
        fn amounts_survive_the_wire(micros in -Money::MAX.0..=Money::MAX.0) {
            let amount = Money(micros);
            prop_assert_eq!(Money::from_wire("amount", amount.to_wire()).unwrap(), amount);
        }
    }

    #[test]
    fn hundredths_are_exact_or_none() {
        assert_eq!(Money::from_hundredths(1_999).unwrap().to_string(), "19.99");
        assert_eq!("19.99".parse::<Money>().unwrap().to_hundredths(), Some(1_999));
        assert_eq!("19.999".parse::<Money>().unwrap().to_hundredths(), None);
        assert_eq!(Money::from_hundredths(i64::MAX), None);
        assert_eq!(Money::from_hundredths(99_999_999_999).unwrap().to_string(), "999999999.99");
        for too_much in [100_000_000_000, -100_000_000_000] {
            assert_eq!(Money::from_hundredths(too_much), None);
        }
    }
}
