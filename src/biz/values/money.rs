//! Exact amounts: whole micro-units of the account's currency.

use std::{fmt, iter::Sum, str::FromStr};

use rust_decimal::Decimal;

use crate::biz::values::invalid::Invalid;

/// An amount of money with six decimal places, stored as whole millionths.
///
/// Every amount and balance is within ±[`Money::MAX`]. [`Money::checked_add`] checks this for a
/// changed balance. Sums for statistics may exceed it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Money(i64);

const MICROS_PER_UNIT: i64 = 1_000_000;
const PLACES: usize = 6;

impl Money {
    pub const ZERO: Money = Money(0);
    /// 999,999,999.999999. Its 15 digits are exact in a wire double, and the integer has room for the
    /// sum of thousands of such amounts.
    pub const MAX: Money = Money(999_999_999_999_999);

    /// From millionths, the form in SQLite.
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

    /// From a wire double, by its shortest decimal form: 0.1 becomes exactly a tenth. NaN,
    /// infinities, more than six places, and amounts beyond ±[`Money::MAX`] are errors that name
    /// `field`.
    pub fn from_wire(field: &str, value: f64) -> Result<Self, Invalid> {
        if !value.is_finite() {
            return Err(Invalid::new(field, "must be a finite number"));
        }
        // Display writes the shortest form that parses to the same double.
        value.to_string().parse().map_err(|why: ParseError| Invalid::new(field, why.0))
    }

    /// The nearest wire double.
    pub fn to_wire(self) -> f64 {
        // A parse rounds once; a division would round twice.
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

    /// The sum, or `None` beyond ±[`Money::MAX`].
    pub fn checked_add(self, other: Money) -> Option<Self> {
        self.0.checked_add(other.0).map(Self).filter(|sum| sum.0.unsigned_abs() <= Self::MAX.0.unsigned_abs())
    }

    /// `self - other`. The caller must know that the result fits, for example because `self` covers
    /// `other`.
    pub fn minus(self, other: Money) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// `self + other`. The caller must know that the result fits.
    pub fn plus(self, other: Money) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// This unit price times `count`, or `None` beyond [`Money::MAX`].
    pub fn times(self, count: u32) -> Option<Self> {
        self.0.checked_mul(i64::from(count)).map(Self).filter(|total| *total <= Self::MAX)
    }

    /// The share `part / whole` of this amount, rounded to the nearest millionth, halves away from
    /// zero. A share that is not zero is at least a millionth. `whole` is at least 1 and `part` at
    /// most `whole`.
    pub fn share(self, part: u32, whole: u32) -> Self {
        // An i64 times a fraction of at most 1 fits an i64.
        Self(self.ratio(part, whole) as i64)
    }

    /// As [`Money::share`], but `part` may exceed `whole`; `None` beyond ±[`Money::MAX`].
    pub fn scaled(self, part: u32, whole: u32) -> Option<Self> {
        let scaled = i64::try_from(self.ratio(part, whole)).ok()?;
        Some(Self(scaled)).filter(|amount| amount.0.unsigned_abs() <= Self::MAX.0.unsigned_abs())
    }

    fn ratio(self, part: u32, whole: u32) -> i128 {
        let (whole, product) = (i128::from(whole), i128::from(self.0) * i128::from(part));
        let half = whole / 2 * product.signum();
        match (product + half) / whole {
            0 => product.signum(),
            rounded => rounded,
        }
    }
}

impl std::ops::Neg for Money {
    type Output = Money;
    fn neg(self) -> Money {
        Money(-self.0)
    }
}

/// Sums for replies and the audit. A sum saturates instead of an overflow.
impl Sum for Money {
    fn sum<I: Iterator<Item = Money>>(amounts: I) -> Money {
        Money(amounts.fold(0, |sum, amount| sum.saturating_add(amount.0)))
    }
}

/// The reason that a text is not an amount.
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
        let (whole, mut fraction, mut places) = (micros / unit, micros % unit, PLACES);
        if fraction == 0 {
            return write!(f, "{sign}{whole}");
        }
        while fraction % 10 == 0 {
            (fraction, places) = (fraction / 10, places - 1);
        }
        write!(f, "{sign}{whole}.{fraction:0places$}")
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
        assert_eq!(money("-0.000001").share(1, 2), money("-0.000001"));
        assert_eq!(Money::MAX.share(1_000_000_000, 1_000_000_000), Money::MAX);
    }

    #[test]
    fn a_share_of_something_is_never_nothing() {
        assert_eq!(money("0.000001").share(1, 3), money("0.000001"));
        assert_eq!(money("0.000001").scaled(1, 1_000_000_000), Some(money("0.000001")));
        assert_eq!(money("-0.000001").share(1, 1_000_000_000), money("-0.000001"));
        assert_eq!(money("1").share(0, 3), Money::ZERO);
        assert_eq!(Money::ZERO.scaled(7, 3), Some(Money::ZERO));
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
}
