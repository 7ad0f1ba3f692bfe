//! What a service does with a reservation where nobody can be asked any more.

use crate::biz::values::money::Money;

/// The choices of one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    pub on_expiry: OnExpiry,
    pub above_hold: AboveHold,
}

/// What becomes of a hold whose time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnExpiry {
    /// What was last reported of a stream is charged; without a report it is freed.
    #[default]
    Commit,
    /// It is freed, whatever was reported. A commit that comes later still charges.
    Release,
}

/// What a commit may take from the balance when what was delivered costs more than the
/// hold. Free quota goes first, always, and is no part of this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AboveHold {
    /// All of it, even below zero.
    #[default]
    Charge,
    /// What was held.
    Cap,
    /// What was held, and whatever else of the balance nobody holds.
    Spill,
}

impl AboveHold {
    /// What of `cost` is charged. `held` is what the reservation holds or, once it has
    /// expired, held; `available` is what may be spent with that hold freed.
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
            // Others have spent what was held.
            (Spill, "3", "2", "-1", "2"),
        ] {
            assert_eq!(policy.charged(yuan(cost), yuan(held), yuan(available)), yuan(charged), "{policy:?} of {cost}");
        }
    }
}
