//! A number of things that may be done in one second.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// The rest of a second's number, and the things that were left out.
#[derive(Debug)]
pub struct Budget {
    per_second: u32,
    left: AtomicU32,
    left_out: AtomicU64,
}

impl Budget {
    pub fn new(per_second: u32) -> Self {
        Self { per_second, left: AtomicU32::new(per_second), left_out: AtomicU64::new(0) }
    }

    /// Whether one more may be done. Counts it, or counts it as left out.
    pub fn admits(&self) -> bool {
        // A busy server mostly finds nothing left, which costs no write of it.
        let is_left =
            self.left.load(Relaxed) > 0 && self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
        if !is_left {
            self.left_out.fetch_add(1, Relaxed);
        }
        is_left
    }

    /// Begins a second. Returns the number of things that were left out since the last call.
    pub fn begin_second(&self) -> u64 {
        self.left.store(self.per_second, Relaxed);
        self.left_out.swap(0, Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_beyond_the_bound_are_counted_until_the_next_second() {
        let budget = Budget::new(2);
        assert_eq!([budget.admits(), budget.admits(), budget.admits(), budget.admits()], [true, true, false, false]);
        assert_eq!(budget.begin_second(), 2);
        assert_eq!([budget.admits(), budget.admits(), budget.admits()], [true, true, false]);
        assert_eq!(budget.begin_second(), 1);
        assert_eq!(budget.begin_second(), 0);
    }
}
