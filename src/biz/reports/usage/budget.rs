//! The work that a refresh may still do.

use tokio::time::Instant;

/// A record that is only counted costs so much less than one that is summed.
const COUNTS_PER_SUM: u64 = 20;
/// A statement costs as much as so many records that are summed.
pub const STATEMENT: u64 = 50;

/// The records that a refresh may still read, and the time at which it ends between two parts; `None`
/// without an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    records: Option<u64>,
    until: Option<Instant>,
}

impl Budget {
    /// For a request, which has a deadline.
    pub const OF_REQUEST: Self = Self { records: Some(5_000), until: None };
    /// For work in the background.
    pub const WITHOUT_END: Self = Self { records: None, until: None };

    /// For a turn in the background.
    pub fn until(end: Instant) -> Self {
        Self { until: Some(end), ..Self::WITHOUT_END }
    }

    pub fn is_of_request(self) -> bool {
        self.records.is_some()
    }

    pub fn is_over(self) -> bool {
        self.until.is_some_and(|end| Instant::now() >= end)
    }

    /// Takes a statement that reads so many records, unless it is too much.
    pub fn take(&mut self, records: u64) -> bool {
        let Some(left) = &mut self.records else { return true };
        match left.checked_sub(records.max(STATEMENT)) {
            Some(rest) => {
                *left = rest;
                true
            }
            None => false,
        }
    }

    /// Takes the records that a statement has counted, beyond the cost of a statement.
    pub fn counted(&mut self, records: u64) {
        if let Some(left) = &mut self.records {
            *left = left.saturating_sub((records / COUNTS_PER_SUM).saturating_sub(STATEMENT));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_statement_of_a_request_costs_something() {
        let mut budget = Budget::OF_REQUEST;
        assert_eq!((0..1_800).filter(|_| budget.take(3)).count(), 100);
        let mut budget = Budget::OF_REQUEST;
        budget.counted(200_000);
        assert!(!budget.take(0), "counting is not free");
        let mut budget = Budget::WITHOUT_END;
        budget.counted(u64::MAX);
        assert!(budget.take(u64::MAX) && budget.take(u64::MAX));
    }
}
