//! The parts of a day: their size, and those that can become one.

use chrono::{DateTime, Days, NaiveDate, TimeDelta, Utc};

use super::{Part, UseDay};
use crate::biz::values::calendar::{Calendar, DaySpan};

/// Most records that one statement sums, unless they are of one millisecond.
pub(super) const SUMMED_AT_ONCE: u64 = 20_000;
/// Most rows of a part, unless its records are of one millisecond; and most rows that a change removes,
/// unless they are of one part.
pub(super) const MOST_ROWS: u64 = 2_000;
/// Most time whose records one statement counts, unless they are of one part.
pub(super) const HOUR: u32 = 60 * MINUTE;
pub(super) const MINUTE: u32 = 60_000;
/// Parts are merged when they have ended for so long, because most late records come sooner.
const SETTLED: TimeDelta = TimeDelta::hours(1);
/// Days before today whose parts stay small, because holds of these days may still be committed.
const RECENT_DAYS: Days = Days::new(1);

pub(super) fn bounds_of(calendar: &Calendar, day: NaiveDate) -> (DateTime<Utc>, DateTime<Utc>) {
    calendar.bounds(DaySpan { first: day, last: day })
}

pub(super) fn millis(from: DateTime<Utc>, to: DateTime<Utc>) -> u32 {
    u32::try_from((to - from).num_milliseconds().max(0)).unwrap_or(u32::MAX)
}

/// Whether some parts of a day can become one.
pub(super) fn is_mergeable(day: &UseDay, calendar: &Calendar) -> bool {
    mergeable(day.parts(), &Limits::of(calendar, day.day)).is_some()
}

/// The parts of a day that may be merged.
pub(super) struct Limits {
    /// The place up to which parts have ended long ago.
    settled: u32,
    is_recent: bool,
}

impl Limits {
    pub fn of(calendar: &Calendar, day: NaiveDate) -> Self {
        let now = calendar.now();
        let first = now.day.checked_sub_days(RECENT_DAYS);
        let settled = millis(bounds_of(calendar, day).0, now.utc - SETTLED);
        Self { settled, is_recent: first.is_none_or(|first| first <= day) }
    }

    /// Whether neighbours may become one part. On recent days, a late record must not make much work: its part
    /// is summed anew.
    fn allow(&self, parts: &[Part]) -> bool {
        let [first, .., last] = parts else { return false };
        let records: u64 = parts.iter().map(|part| part.records).sum();
        let is_small = records <= SUMMED_AT_ONCE || first.from / HOUR == (last.until - 1) / HOUR;
        let rows: u64 = parts.iter().map(|part| part.rows).sum();
        let are_adjacent = parts.windows(2).all(|pair| pair[0].until == pair[1].from);
        are_adjacent && last.until <= self.settled && rows <= MOST_ROWS && (is_small || !self.is_recent)
    }
}

/// The first run of parts that can become one, as long as possible.
pub(super) fn mergeable<'p>(parts: &'p [Part], limits: &Limits) -> Option<&'p [Part]> {
    for first in 0..parts.len() {
        let runs = (first + 2..=parts.len()).map(|end| &parts[first..end]);
        if let Some(run) = runs.take_while(|run| limits.allow(run)).last() {
            return Some(run);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(sizes: &[(u32, u32, u64, u64)]) -> Vec<Part> {
        let part = |(id, (from, until, records, rows)): (usize, &(u32, u32, u64, u64))| {
            let (from, until) = (from * MINUTE, until * MINUTE);
            Part { id: id as u64, from, until, records: *records, rows: *rows }
        };
        sizes.iter().enumerate().map(part).collect()
    }

    #[test]
    fn neighbours_that_ended_long_ago_are_merged_within_the_rows_of_a_change() {
        let of = |parts: &[Part], is_recent| {
            let run = mergeable(parts, &Limits { settled: 600 * MINUTE, is_recent });
            run.map(|run| (run[0].id, run.len()))
        };
        let three = [(0, 60, 5, 10), (60, 120, 5, 10), (120, 180, 5, 10)];
        assert_eq!(of(&parts(&three), true), Some((0, 3)));
        assert_eq!(of(&parts(&three[..1]), false), None);
        assert_eq!(of(&parts(&[(0, 60, 5, 10), (61, 120, 5, 10)]), false), None, "a gap");
        assert_eq!(of(&parts(&[(500, 590, 5, 10), (590, 605, 5, 10)]), false), None, "not settled");
        let wide = [(0, 60, 5, 1_001), (60, 120, 5, 1_000), (120, 180, 5, 1_000), (180, 240, 5, 1)];
        assert_eq!(of(&parts(&wide), false), Some((1, 2)), "rows of a change");
        let large = [(0, 50, 15_000, 1), (50, 60, 15_000, 1), (60, 120, 15_000, 1)];
        assert_eq!(of(&parts(&large), false), Some((0, 3)));
        assert_eq!(of(&parts(&large), true), Some((0, 2)), "the large parts of an hour");
        assert_eq!(of(&parts(&large[1..]), true), None);
    }
}
