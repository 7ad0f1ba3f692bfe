//! Currencies, by their codes of ISO 4217, and their minor units.

use std::fmt;

use super::{invalid::Invalid, money::Money};

/// A currency whose minor unit has at most six decimal places, as many as [`Money`] has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Currency {
    code: &'static str,
    places: u32,
}

const MONEY_PLACES: u32 = 6;

impl Currency {
    pub const CNY: Self = Self { code: "CNY", places: 2 };

    /// The currency of a code in capitals. `None` if ISO 4217 has no such currency, or if it has no
    /// minor unit, such as gold.
    pub fn parse(code: &str) -> Option<Self> {
        let known = iso_currency::Currency::from_code(code)?;
        let places = u32::from(known.exponent()?);
        (places <= MONEY_PLACES).then(|| Self { code: known.code(), places })
    }

    pub fn code(self) -> &'static str {
        self.code
    }

    /// Decimal places of the minor unit: 2 for CNY, 0 for JPY, 3 for KWD.
    pub fn places(self) -> u32 {
        self.places
    }

    fn micros_per_minor(self) -> i64 {
        10_i64.pow(MONEY_PLACES - self.places)
    }

    /// In minor units, the unit of payment-service. `None` if the amount is not a whole number of
    /// them.
    pub fn to_minor(self, amount: Money) -> Option<i64> {
        let unit = self.micros_per_minor();
        (amount.micros() % unit == 0).then_some(amount.micros() / unit)
    }

    /// From minor units; `None` beyond ±[`Money::MAX`].
    pub fn from_minor(self, minor: i64) -> Option<Money> {
        let micros = minor.checked_mul(self.micros_per_minor())?;
        Money::ZERO.checked_add(Money::from_micros(micros))
    }

    /// The largest amount of whole minor units that is not above `amount`.
    pub fn floor(self, amount: Money) -> Money {
        let unit = self.micros_per_minor();
        Money::from_micros(amount.micros().div_euclid(unit) * unit)
    }

    /// Checks that `amount` has no more places than the currency.
    ///
    /// # Errors
    /// [`Invalid`] of `field`.
    pub fn check_places(self, field: &str, amount: Money) -> Result<(), Invalid> {
        match self.to_minor(amount) {
            Some(_) => Ok(()),
            None => {
                Err(Invalid::new(field, format!("must have at most {} decimal places, as {self} has", self.places)))
            }
        }
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code)
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn currency(code: &str) -> Currency {
        Currency::parse(code).unwrap()
    }

    fn money(text: &str) -> Money {
        text.parse().unwrap()
    }

    #[test]
    fn minor_units_are_those_of_iso_4217() {
        assert_eq!(currency("CNY"), Currency::CNY);
        for (code, amount, minor) in [
            ("CNY", "19.99", 1_999),
            ("USD", "0.01", 1),
            ("JPY", "80", 80),
            ("KRW", "80", 80),
            ("KWD", "1.005", 1_005),
            ("BHD", "0.001", 1),
            ("CLF", "1.0001", 10_001),
            ("ISK", "7", 7),
            ("HUF", "7.05", 705),
        ] {
            assert_eq!(currency(code).to_minor(money(amount)), Some(minor), "{code}");
            assert_eq!(currency(code).from_minor(minor), Some(money(amount)), "{code}");
        }
    }

    #[test]
    fn an_amount_with_more_places_than_its_currency_is_refused_by_its_field() {
        for (code, amount, places) in [("JPY", "80.5", 0), ("CNY", "19.999", 2), ("KWD", "1.0005", 3)] {
            assert_eq!(currency(code).to_minor(money(amount)), None, "{code}");
            let refused = currency(code).check_places("amount", money(amount)).unwrap_err().to_string();
            assert_eq!(refused, format!("amount: must have at most {places} decimal places, as {code} has"));
        }
        assert!(currency("KWD").check_places("amount", money("1.005")).is_ok());
    }

    #[test]
    fn only_currencies_with_a_minor_unit_are_known() {
        for none in ["", "cny", "CN", "CNYY", "ABC", "XAU", "XXX", "€"] {
            assert_eq!(Currency::parse(none), None, "{none}");
        }
    }

    #[test]
    fn amounts_beyond_the_largest_are_none() {
        assert_eq!(currency("CNY").from_minor(i64::MAX), None);
        assert_eq!(currency("CNY").from_minor(100_000_000_000), None);
        assert_eq!(currency("JPY").from_minor(-1_000_000_000), None);
        assert_eq!(currency("JPY").from_minor(999_999_999), Some(money("999999999")));
        assert_eq!(currency("JPY").floor(money("999999.99")), money("999999"));
        assert_eq!(currency("CNY").floor(money("999999.99")), money("999999.99"));
    }
}
