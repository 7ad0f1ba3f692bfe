//! The thresholds of a user's alerts, and the levels that cross them.
//!
//! A threshold fires when one posting takes a level across it. The next posting starts on the other side, so a
//! threshold fires again only after the level has come back.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::biz::values::{invalid::Invalid, money::Money};

/// Most thresholds of each kind.
pub const MAX_THRESHOLDS: usize = 10;

/// Thresholds, each list in ascending order and without repeats.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Alerts {
    /// Balances below which `balance.low` fires.
    pub balance_below: Vec<Money>,
    /// Percentages of a quota at which `quota.threshold` fires.
    pub quota_percent: Vec<u8>,
}

/// The stored form: amounts in millionths.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    balance_below: Vec<i64>,
    quota_percent: Vec<u8>,
}

impl Alerts {
    /// # Errors
    /// The list that is too long, or has a value out of its bounds.
    pub fn new(mut balance_below: Vec<Money>, mut quota_percent: Vec<u8>) -> Result<Self, Invalid> {
        let too_long = |field| Invalid::new(field, format!("must have at most {MAX_THRESHOLDS} values"));
        if balance_below.len() > MAX_THRESHOLDS {
            return Err(too_long("balance_below"));
        }
        if quota_percent.len() > MAX_THRESHOLDS {
            return Err(too_long("quota_percent"));
        }
        if balance_below.iter().any(|threshold| threshold.is_negative()) {
            return Err(Invalid::new("balance_below", "must not be negative"));
        }
        if quota_percent.iter().any(|percent| !(1..=100).contains(percent)) {
            return Err(Invalid::new("quota_percent", "must be 1 to 100"));
        }
        balance_below.sort_unstable();
        balance_below.dedup();
        quota_percent.sort_unstable();
        quota_percent.dedup();
        Ok(Self { balance_below, quota_percent })
    }

    /// The thresholds that a balance falls below, the highest first.
    pub fn balance_crossed(&self, before: Money, after: Money) -> impl Iterator<Item = Money> + '_ {
        let fell_below = move |threshold: &&Money| before >= **threshold && after < **threshold;
        self.balance_below.iter().rev().filter(fell_below).copied()
    }

    /// The percentages of `limit` that a use reaches, the lowest first.
    pub fn quota_crossed(&self, level: Level) -> impl Iterator<Item = u8> + '_ {
        self.quota_percent.iter().copied().filter(move |percent| level.reaches(*percent))
    }

    /// The text of the column.
    pub fn stored(&self) -> String {
        let balance_below = self.balance_below.iter().map(|threshold| threshold.micros()).collect();
        let stored = Stored { balance_below, quota_percent: self.quota_percent.clone() };
        serde_json::to_string(&stored).unwrap_or_default()
    }

    /// Reads [`Self::stored`]; `None` for another text.
    pub fn from_stored(text: &str) -> Option<Self> {
        let Stored { balance_below, quota_percent } = serde_json::from_str(text).ok()?;
        Self::new(balance_below.into_iter().map(Money::from_micros).collect(), quota_percent).ok()
    }
}

/// The use of a quota before and after a posting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    pub limit: u64,
    pub before: u64,
    pub after: u64,
}

impl Level {
    fn reaches(self, percent: u8) -> bool {
        let due = u128::from(self.limit) * u128::from(percent);
        let is_at = |used: u64| u128::from(used) * 100 >= due;
        self.limit > 0 && !is_at(self.before) && is_at(self.after)
    }
}

/// The alerts of an account, and whether its subscribers know that it is exhausted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Watch {
    /// Set by a call that was refused for money, cleared by a credit.
    pub is_exhausted: bool,
    /// `None` for the configured thresholds.
    pub alerts: Option<Arc<Alerts>>,
}

impl Watch {
    pub fn is_default(&self) -> bool {
        !self.is_exhausted && self.alerts.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn money(micros: i64) -> Money {
        Money::from_micros(micros)
    }

    #[test]
    fn a_threshold_fires_on_the_way_down_only_and_once() {
        let alerts = Alerts::new(vec![money(5), money(10), money(5)], vec![]).unwrap();
        let crossed = |before, after| alerts.balance_crossed(money(before), money(after)).collect::<Vec<_>>();
        assert_eq!(crossed(10, 9), [money(10)]);
        assert!(crossed(9, 6).is_empty());
        assert_eq!(crossed(20, -1), [money(10), money(5)]);
        assert!(crossed(4, 30).is_empty());
        assert!(crossed(30, 10).is_empty(), "10 is not below 10");
    }

    #[test]
    fn a_quota_reaches_each_percentage_once_on_the_way_up() {
        let alerts = Alerts::new(vec![], vec![100, 50, 80]).unwrap();
        let crossed = |limit, before, after| alerts.quota_crossed(Level { limit, before, after }).collect::<Vec<_>>();
        assert_eq!(crossed(10, 4, 5), [50]);
        assert!(crossed(10, 5, 7).is_empty());
        assert_eq!(crossed(10, 0, 12), [50, 80, 100]);
        assert!(crossed(10, 9, 3).is_empty());
        assert!(crossed(0, 0, 1).is_empty(), "nothing is no quota");
        assert_eq!(crossed(3, 1, 2), [50], "two of three are more than half, and less than 80%");
        assert_eq!(crossed(u64::MAX, 0, u64::MAX), [50, 80, 100]);
    }

    #[test]
    fn bad_thresholds_are_named() {
        let bad = |balances: Vec<Money>, percents: Vec<u8>| Alerts::new(balances, percents).unwrap_err().to_string();
        assert_eq!(bad(vec![money(-1)], vec![]), "balance_below: must not be negative");
        assert_eq!(bad(vec![], vec![0]), "quota_percent: must be 1 to 100");
        assert_eq!(bad(vec![], vec![101]), "quota_percent: must be 1 to 100");
        assert_eq!(bad(vec![money(1); 11], vec![]), "balance_below: must have at most 10 values");
        assert_eq!(bad(vec![], vec![1; 11]), "quota_percent: must have at most 10 values");
    }

    #[test]
    fn stored_thresholds_are_read_back_and_others_are_not() {
        let alerts = Alerts::new(vec![money(5)], vec![80]).unwrap();
        assert_eq!(Alerts::from_stored(&alerts.stored()), Some(alerts));
        for bad in ["", "{}", r#"{"balance_below":[-1],"quota_percent":[]}"#] {
            assert_eq!(Alerts::from_stored(bad), None, "{bad}");
        }
    }
}
