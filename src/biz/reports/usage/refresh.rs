//! Brings the rollup of a user up to date.
//!
//! A part of a day is summed from its records and replaced as a whole. So a repeat, a crash, and two
//! servers that do the same at once change nothing.
//!
//! The number of missing records is a difference of two counts. A charge counts its records in the daily
//! rollup, in its own transaction. Each part of this rollup has the number of records that it was summed
//! from. Records are never changed, so numbers that are equal in one snapshot mean that all are in. It does
//! not matter when a record became visible, or how old its time is.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use chrono::{DateTime, Days, NaiveDate, TimeDelta, Utc};

use super::{DayPart, StaleDay, UseGroup, UseStore, UseSums};
use crate::biz::values::{
    calendar::{Calendar, DaySpan},
    error::StoreError,
    ids::UserId,
};

/// Most records of a day that is summed as a whole.
pub(super) const SMALL_DAY: u64 = 1_000;
/// Length of a slice of a larger day.
const SLICE: TimeDelta = TimeDelta::minutes(5);
/// Most slices of a day: 27 hours, for the days on which clocks go back.
const MAX_SLICES: u16 = 27 * 12;
/// Most records that one statement sums, unless they are of one millisecond.
const SUMMED_AT_ONCE: u64 = 20_000;
/// Most groups of a part. The records of a part with more stay missing.
const MOST_GROUPS: usize = 20_000;
/// Shortest span that is halved to keep to [`SUMMED_AT_ONCE`].
const SHORTEST: TimeDelta = TimeDelta::milliseconds(1);
/// A record that is only counted costs so much less than one that is summed.
const COUNTS_PER_SUM: u64 = 20;
/// A statement costs as much as so many records that are summed.
const STATEMENT: u64 = 50;
/// Days before today that stay in slices, because holds of these days may still be committed.
const DAYS_IN_SLICES: Days = Days::new(1);
/// Most rows that are folded, in one transaction.
const MOST_FOLDED: u64 = 20_000;
/// Most slices with too many groups that are remembered.
const MOST_WIDE: usize = 1_000;

/// The records that a refresh may still read; `None` without an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget(Option<u64>);

impl Budget {
    /// For a request, which has a deadline.
    pub const OF_REQUEST: Self = Self(Some(5_000));
    /// For work in the background.
    pub const WITHOUT_END: Self = Self(None);

    fn is_endless(self) -> bool {
        self.0.is_none()
    }

    /// Takes a statement that reads so many records, unless it is too much.
    fn take(&mut self, records: u64) -> bool {
        let Some(left) = &mut self.0 else { return true };
        match left.checked_sub(records.max(STATEMENT)) {
            Some(rest) => {
                *left = rest;
                true
            }
            None => false,
        }
    }

    /// Takes the records that a statement has counted, beyond the cost of a statement.
    fn counted(&mut self, records: u64) {
        if let Some(left) = &mut self.0 {
            *left = left.saturating_sub((records / COUNTS_PER_SUM).saturating_sub(STATEMENT));
        }
    }
}

/// The slices that had too many groups, and the number of their records then. They are not summed again
/// until it changes.
#[derive(Debug, Default)]
pub struct WideSlices(Mutex<BTreeMap<(UserId, NaiveDate, u16), u64>>);

impl WideSlices {
    fn has(&self, slice: &(UserId, NaiveDate, u16), records: u64) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(slice) == Some(&records)
    }

    fn note(&self, slice: (UserId, NaiveDate, u16), records: u64) {
        let mut slices = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if slices.len() >= MOST_WIDE {
            slices.clear();
        }
        slices.insert(slice, records);
    }
}

/// The number of records that some days lack.
pub(super) fn missing_in(days: &[StaleDay]) -> u64 {
    days.iter().map(StaleDay::missing).sum()
}

/// Whether the slices of a day can become one part.
pub(super) fn is_foldable(stale: &StaleDay, today: NaiveDate) -> bool {
    let is_past = today.checked_sub_days(DAYS_IN_SLICES).is_some_and(|first| stale.day < first);
    let is_in_slices = stale.is_sliced() && !stale.rolled.contains_key(&DayPart::Whole);
    is_past && is_in_slices && stale.is_equal() && stale.rows <= MOST_FOLDED
}

/// Brings the days of `span` up to date, the newest first, within a budget. Returns the number of records
/// that are missing at the end, as one snapshot shows it. Without an end of the budget, it folds the slices
/// of past days.
///
/// # Errors
/// [`StoreError::Conflict`]: another process writes the same part; [`StoreError::Unavailable`],
/// [`StoreError::Failed`]. The parts before the failure stay.
pub async fn refresh(
    store: &(impl UseStore + ?Sized),
    calendar: &Calendar,
    user: &UserId,
    span: DaySpan,
    mut budget: Budget,
    wide: &WideSlices,
) -> Result<u64, StoreError> {
    let mut days = store.stale_days(user, span).await?;
    if days.iter().any(|day| !day.is_equal()) {
        for stale in days {
            let bounds = calendar.bounds(DaySpan { first: stale.day, last: stale.day });
            DayRollup { store, user, bounds, wide }.roll_up(stale, &mut budget).await?;
        }
        // Records that were charged meanwhile are missing too.
        days = store.stale_days(user, span).await?;
    }
    if budget.is_endless() {
        let today = calendar.now().day;
        for stale in days.iter().filter(|stale| is_foldable(stale, today)) {
            store.fold(user, stale.day).await?;
        }
    }
    Ok(missing_in(&days))
}

/// A day of a user.
struct DayRollup<'a, S: ?Sized> {
    store: &'a S,
    user: &'a UserId,
    bounds: (DateTime<Utc>, DateTime<Utc>),
    wide: &'a WideSlices,
}

impl<S: UseStore + ?Sized> DayRollup<'_, S> {
    async fn roll_up(&self, stale: StaleDay, budget: &mut Budget) -> Result<(), StoreError> {
        if stale.is_equal() {
            return Ok(());
        }
        if stale.recorded > SMALL_DAY || stale.is_sliced() {
            return self.roll_up_slices(stale, budget).await;
        }
        if budget.take(stale.recorded) {
            let sums = self.store.sums_between(self.user, self.bounds).await?;
            self.store.replace(self.user, (stale.day, DayPart::Whole), &sums).await?;
        }
        Ok(())
    }

    /// Goes back from the slice of the newest record until no record is missing. New records are nearly
    /// always in the newest slices.
    async fn roll_up_slices(&self, mut stale: StaleDay, budget: &mut Budget) -> Result<(), StoreError> {
        if stale.rolled.contains_key(&DayPart::Whole) {
            // The first slice replaces the sums of the whole day, so all slices must follow. A request has no
            // time for them.
            if !budget.is_endless() {
                return Ok(());
            }
            // Two servers have written both.
            if stale.is_sliced() {
                self.store.replace(self.user, (stale.day, DayPart::Whole), &[]).await?;
            }
            stale.rolled.clear();
        }
        if !budget.take(STATEMENT) {
            return Ok(());
        }
        let Some(newest) = self.store.newest_between(self.user, self.bounds).await? else { return Ok(()) };
        let day = stale.day;
        let mut in_all = stale.in_all();
        for number in (1..=self.slice_of(newest)).rev() {
            if in_all >= stale.recorded {
                // New records may have taken the place of missing ones. A request leaves that to the
                // background, which goes on with new numbers. An account that is charged all the time does
                // not end this loop early, but its slices do.
                if !budget.is_endless() {
                    break;
                }
                let one = DaySpan { first: day, last: day };
                let Some(again) = self.store.stale_days(self.user, one).await?.pop() else { break };
                if again.missing() == 0 || again.rolled.contains_key(&DayPart::Whole) {
                    break;
                }
                stale = again;
                in_all = stale.in_all();
            }
            if !budget.take(STATEMENT) {
                break;
            }
            let (part, between) = (DayPart::Slice(number), self.slice(number));
            let known = stale.rolled.get(&part).copied().unwrap_or(0);
            let count = self.store.count_between(self.user, between).await?;
            budget.counted(count);
            let place = (self.user.clone(), day, number);
            if count == known || self.wide.has(&place, count) {
                continue;
            }
            if !budget.take(count) {
                break;
            }
            let Some(sums) = self.sums_of(between, count).await? else {
                let user = self.user;
                tracing::warn!(%user, %day, slice = number, "use by model and API key has too many groups; left out");
                self.wide.note(place, count);
                continue;
            };
            self.store.replace(self.user, (day, part), &sums).await?;
            in_all = in_all.saturating_sub(known).saturating_add(records_in(&sums));
        }
        Ok(())
    }

    fn slice_of(&self, at: DateTime<Utc>) -> u16 {
        let number = (at - self.bounds.0).num_seconds() / SLICE.num_seconds() + 1;
        u16::try_from(number).unwrap_or(MAX_SLICES).min(MAX_SLICES)
    }

    fn slice(&self, number: u16) -> (DateTime<Utc>, DateTime<Utc>) {
        let from = self.bounds.0 + SLICE * i32::from(number - 1);
        (from, (from + SLICE).min(self.bounds.1))
    }

    /// The sums of a span, read in pieces; `None` if it has too many groups. A record that becomes visible
    /// in a piece that was read already is missing from the sums and from their count.
    async fn sums_of(
        &self,
        between: (DateTime<Utc>, DateTime<Utc>),
        count: u64,
    ) -> Result<Option<Vec<(UseGroup, UseSums)>>, StoreError> {
        let mut groups: BTreeMap<UseGroup, UseSums> = BTreeMap::new();
        let mut waiting = vec![(between, count)];
        // Ends: each piece is read, or replaced by its two halves, down to the shortest.
        while let Some(((from, before), count)) = waiting.pop() {
            if count <= SUMMED_AT_ONCE || before - from <= SHORTEST {
                for (group, sums) in self.store.sums_between(self.user, (from, before)).await? {
                    groups.entry(group).or_default().add(&sums);
                }
                if groups.len() > MOST_GROUPS {
                    return Ok(None);
                }
                continue;
            }
            let half = (before - from).num_microseconds().unwrap_or(i64::MAX) / 2;
            // The databases keep whole microseconds.
            let middle = from + TimeDelta::microseconds(half);
            let earlier = self.store.count_between(self.user, (from, middle)).await?;
            waiting.push(((middle, before), count.saturating_sub(earlier)));
            waiting.push(((from, middle), earlier));
        }
        Ok(Some(groups.into_iter().collect()))
    }
}

fn records_in(groups: &[(UseGroup, UseSums)]) -> u64 {
    groups.iter().map(|(_, sums)| sums.records()).sum()
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

    #[test]
    fn only_whole_past_days_in_slices_are_folded() {
        let day = |text: &str| text.parse::<NaiveDate>().unwrap();
        let parts = |parts: &[(DayPart, u64)]| parts.iter().copied().collect::<BTreeMap<_, _>>();
        let slices = StaleDay {
            day: day("2026-11-18"),
            recorded: 7,
            rolled: parts(&[(DayPart::Slice(1), 3), (DayPart::Slice(2), 4)]),
            rows: 2,
        };
        let today = day("2026-11-20");
        assert!(is_foldable(&slices, today));
        assert!(!is_foldable(&slices, day("2026-11-19")), "a hold of yesterday may still be committed");
        assert!(!is_foldable(&StaleDay { recorded: 8, ..slices.clone() }, today));
        assert!(!is_foldable(&StaleDay { rows: MOST_FOLDED + 1, ..slices.clone() }, today));
        let both = parts(&[(DayPart::Whole, 3), (DayPart::Slice(2), 4)]);
        assert!(!is_foldable(&StaleDay { rolled: both, ..slices.clone() }, today));
        assert!(!is_foldable(&StaleDay { rolled: parts(&[(DayPart::Whole, 7)]), ..slices }, today));
    }
}
