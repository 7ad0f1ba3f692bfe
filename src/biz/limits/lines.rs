//! A bounded rate of log lines about events that peers cause at any rate.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Instant,
};

/// Most lines a second.
const MOST: u64 = 10;

/// The lines of one kind.
pub struct Lines {
    started: Instant,
    /// The current second since the start, and the lines of it: the second in the upper half.
    lines: AtomicU64,
    /// Lines left out since the last one.
    left_out: AtomicU64,
}

impl Default for Lines {
    fn default() -> Self {
        Self { started: Instant::now(), lines: AtomicU64::new(0), left_out: AtomicU64::new(0) }
    }
}

impl Lines {
    /// The lines that were left out before this one; `None` if this one is left out too.
    pub fn admit(&self) -> Option<u64> {
        self.admit_in(self.started.elapsed().as_secs())
    }

    fn admit_in(&self, second: u64) -> Option<u64> {
        let second = second & u64::from(u32::MAX);
        let next = |lines: u64| {
            if lines >> 32 != second {
                return Some(second << 32 | 1);
            }
            ((lines & u64::from(u32::MAX)) < MOST).then_some(lines + 1)
        };
        if self.lines.fetch_update(Relaxed, Relaxed, next).is_ok() {
            return Some(self.left_out.swap(0, Relaxed));
        }
        self.left_out.fetch_add(1, Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_some_lines_and_the_next_one_tells_of_those_left_out() {
        let lines = Lines::default();
        assert_eq!((0..15).filter(|_| lines.admit_in(1) == Some(0)).count(), 10);
        assert_eq!(lines.admit_in(2), Some(5));
        assert_eq!(lines.admit_in(2), Some(0));
    }
}
