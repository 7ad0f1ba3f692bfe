//! An amount in minor units of its currency.

use std::fmt;

use crate::biz::values::{currency::Currency, invalid::Invalid, money::Money};

/// An amount above zero, in whole minor units of its currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amount {
    minor: i64,
    money: Money,
    currency: Currency,
}

impl Amount {
    pub fn parse(minor: i64, currency: Currency) -> Result<Self, Invalid> {
        match currency.from_minor(minor) {
            Some(money) if minor > 0 => Ok(Self { minor, money, currency }),
            _ => {
                let largest = currency.to_minor(currency.floor(Money::MAX)).unwrap_or_default();
                Err(Invalid::new("amount", format!("must be above 0 and at most {largest} minor units of {currency}")))
            }
        }
    }

    /// The next larger amount. The largest amount stays as it is.
    pub fn one_more(self) -> Self {
        Self::parse(self.minor + 1, self.currency).unwrap_or(self)
    }

    pub fn minor(self) -> i64 {
        self.minor
    }

    pub fn to_money(self) -> Money {
        self.money
    }

    pub fn currency(self) -> Currency {
        self.currency
    }
}

/// The decimal places of the currency, as on the pay page.
impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (places, unit) = (self.currency.places() as usize, 10_i64.pow(self.currency.places()));
        match places {
            0 => write!(f, "{}", self.minor),
            _ => write!(f, "{}.{:0places$}", self.minor / unit, self.minor % unit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_amount_has_the_places_of_its_currency() {
        for (minor, code, shown) in
            [(1_234, "CNY", "12.34"), (80, "JPY", "80"), (1_005, "KWD", "1.005"), (1, "USD", "0.01")]
        {
            assert_eq!(Amount::parse(minor, Currency::parse(code).unwrap()).unwrap().to_string(), shown);
        }
    }

    proptest! {
        #[test]
        fn minor_units_become_the_amount_exactly(
            minor in 1..=999_999_999_i64,
            code in proptest::sample::select(&["CNY", "JPY", "KWD", "CLF"][..]),
        ) {
            let amount = Amount::parse(minor, Currency::parse(code).unwrap()).unwrap();
            prop_assert_eq!(amount.to_string().parse::<Money>().unwrap(), amount.to_money());
            // The amount in the JSON of a callback.
            let json = serde_json::to_string(&amount.to_money().to_wire()).unwrap();
            prop_assert_eq!(json.parse::<f64>().unwrap(), amount.to_money().to_wire());
        }
    }
}
