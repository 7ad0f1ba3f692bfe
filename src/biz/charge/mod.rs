//! The rule of a charge: free quota first, then balance, all or nothing.

pub mod prices;
pub mod quote;

use super::values::{error::Error, money::Money};

/// The free quota and balance of an account, for a charge of one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Funds {
    /// Units of the service's free quota left this month.
    pub free_remaining: u64,
    /// The available balance.
    pub available: Money,
}

/// The parts of a charge that free quota and balance pay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// Units taken from the free quota.
    pub free: u32,
    /// Units paid from the balance.
    pub paid: u32,
    /// Cost of the paid units.
    pub amount: Money,
}

impl Split {
    /// Whether the balance pays a part. A surcharge may have an amount without units.
    pub fn is_paid(self) -> bool {
        self.paid > 0 || !self.amount.is_zero()
    }
}

/// Splits `count` units between free quota and balance. `cost` is the cost of all units without
/// free quota. The paid part costs `cost * paid / count`, rounded to the nearest millionth.
///
/// # Errors
/// [`Error::InsufficientBalance`]: the available balance does not cover the paid part.
pub fn charge(count: u32, cost: Money, funds: Funds) -> Result<Split, Error> {
    let split = split(count, cost, funds.free_remaining);
    // Free calls need no balance, even if late commits have taken it below zero.
    if !split.amount.is_zero() && split.amount > funds.available {
        return Err(Error::InsufficientBalance { needed: split.amount, available: funds.available });
    }
    Ok(split)
}

/// The units of `count` that the free quota pays.
pub fn free_part(count: u32, free_remaining: u64) -> u32 {
    u32::try_from(free_remaining).map_or(count, |remaining| count.min(remaining))
}

/// The split alone, whether or not the balance covers it.
pub fn split(count: u32, cost: Money, free_remaining: u64) -> Split {
    let free = free_part(count, free_remaining);
    let paid = count - free;
    Split { free, paid, amount: cost.share(paid, count.max(1)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn funds(free_remaining: u64, available: &str) -> Funds {
        Funds { free_remaining, available: available.parse().unwrap() }
    }

    fn yuan(text: &str) -> Money {
        text.parse().unwrap()
    }

    #[test]
    fn free_quota_goes_first_and_the_balance_pays_the_rest() {
        let split = charge(10, yuan("1"), funds(4, "0.6")).unwrap();
        assert_eq!(split, Split { free: 4, paid: 6, amount: yuan("0.6") });
    }

    #[test]
    fn a_charge_that_is_not_covered_takes_nothing() {
        let refused = charge(10, yuan("1"), funds(4, "0.599999")).unwrap_err();
        assert_eq!(refused, Error::InsufficientBalance { needed: yuan("0.6"), available: yuan("0.599999") });
    }

    #[test]
    fn a_free_call_passes_with_a_balance_below_zero() {
        assert!(charge(4, yuan("1"), funds(4, "-3")).is_ok());
    }

    proptest! {
        /// Compares the rule with a reference that counts unit by unit.
        #[test]
        fn the_rule_agrees_with_paying_unit_by_unit(
            count in 1u32..200,
            price in 0i64..1_000_000,
            free in 0u64..300,
            available in 0i64..100_000_000,
        ) {
            let (mut left, mut taken, mut paid) = (free, 0, 0);
            for _ in 0..count {
                if left > 0 { left -= 1; taken += 1u32 } else { paid += 1 }
            }
            let amount = i64::from(paid) * price;
            let cost = Money::from_micros(price).times(count).unwrap();
            let funds = Funds { free_remaining: free, available: Money::from_micros(available) };
            match charge(count, cost, funds) {
                Ok(split) => {
                    prop_assert_eq!((split.free, split.paid), (taken, paid));
                    prop_assert_eq!(split.amount.micros(), amount);
                    prop_assert!(amount <= available);
                }
                Err(_) => prop_assert!(amount > available),
            }
        }

        #[test]
        fn nothing_is_charged_beyond_the_cost(
            count in 1u32..=1_000_000_000,
            cost in 0i64..=Money::MAX.micros(),
            free in 0u64..=1 << 40,
        ) {
            let split = split(count, Money::from_micros(cost), free);
            prop_assert_eq!(split.free + split.paid, count);
            prop_assert!(split.amount.micros() <= cost && !split.amount.is_negative());
            if split.paid == count {
                prop_assert_eq!(split.amount.micros(), cost);
            }
        }
    }
}
