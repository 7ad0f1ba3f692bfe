//! The policy of a service for its reservations: at expiry, and for a commit above the hold.

use crate::biz::values::money::Money;

/// The policy of one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    pub on_expiry: OnExpiry,
    pub above_hold: AboveHold,
}

/// The end of a reservation that expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnExpiry {
    /// A stream is charged for its last reported usage. Without a report the hold is freed.
    #[default]
    Commit,
    /// The hold is freed, even if usage was reported. A later commit still charges.
    Release,
}

/// The amount that a commit may take from the balance if the delivered work costs more than the
/// hold. Free quota is always used first, and this policy does not apply to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AboveHold {
    /// The whole cost. The balance may fall below zero.
    #[default]
    Charge,
    /// At most the hold.
    Cap,
    /// At most the hold, or the available balance if it is larger.
    Spill,
}

impl AboveHold {
    /// The part of `cost` that is charged. `held` is the hold of the reservation, also after its
    /// expiry. `available` is the available balance with that hold freed.
    pub fn charged(self, cost: Money, held: Money, available: Money) -> Money {
        match self {
            Self::Charge => cost,
            Self::Cap => cost.min(held),
            Self::Spill => cost.min(held.max(available)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn yuan(text: &str) -> Money {
        text.parse().unwrap()
    }

    #[test]
    fn each_policy_has_its_limit() {
        use AboveHold::{Cap, Charge, Spill};
        for (policy, cost, held, available, charged) in [
            (Charge, "7", "2", "5", "7"),
            (Cap, "7", "2", "5", "2"),
            (Spill, "7", "2", "5", "5"),
            (Cap, "1", "2", "5", "1"),
            (Spill, "3", "2", "5", "3"),
            // Other charges have spent the held money.
            (Spill, "3", "2", "-1", "2"),
        ] {
            assert_eq!(policy.charged(yuan(cost), yuan(held), yuan(available)), yuan(charged), "{policy:?} of {cost}");
        }
    }
}
