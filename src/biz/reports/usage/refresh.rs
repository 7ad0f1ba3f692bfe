//! Brings the rollup of a user up to date.
//!
//! A part of a day is summed from its records and replaced as a whole. So a repeat, a crash, and two
//! servers that do the same at once change nothing.
//!
//! The proof that no record is missing is a count. A charge counts its records in the daily rollup, in its
//! own transaction. Each part of this rollup has the number of records that it was summed from. Records are
//! never changed, so equal numbers mean that all are in. It does not matter when a record became
//! visible, or how old its time is.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

use super::{DayPart, StaleDay, UseGroup, UseStore, UseSums};
use crate::biz::values::{
    calendar::{Calendar, DaySpan},
    error::StoreError,
    ids::UserId,
};

/// Most records of a day that is summed as a whole.
pub(super) const SMALL_DAY: u64 = 5_000;
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

/// The records that a refresh may still read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget(u64);

impl Budget {
    /// For a request, which has a deadline.
    pub const OF_REQUEST: Self = Self(5_000);
    /// For work in the background.
    pub const WITHOUT_END: Self = Self(u64::MAX);

    fn take(&mut self, records: u64) -> bool {
        let left = self.0.checked_sub(records);
        self.0 = left.unwrap_or(self.0);
        left.is_some()
    }

    fn take_counted(&mut self, records: u64) {
        self.0 = self.0.saturating_sub(records / COUNTS_PER_SUM);
    }
}

/// Brings the days of `span` up to date, the newest first, within a budget. Returns the number of records
/// that are still missing.
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
) -> Result<u64, StoreError> {
    let mut missing = 0;
    for stale in store.stale_days(user, span).await? {
        let day = DayRollup { store, user, bounds: calendar.bounds(DaySpan { first: stale.day, last: stale.day }) };
        missing += day.roll_up(stale, &mut budget).await?;
    }
    Ok(missing)
}

/// A day of a user.
struct DayRollup<'a, S: ?Sized> {
    store: &'a S,
    user: &'a UserId,
    bounds: (DateTime<Utc>, DateTime<Utc>),
}

impl<S: UseStore + ?Sized> DayRollup<'_, S> {
    /// Returns the number of records that are still missing.
    async fn roll_up(&self, stale: StaleDay, budget: &mut Budget) -> Result<u64, StoreError> {
        let is_sliced = stale.rolled.keys().any(|part| *part != DayPart::Whole);
        if stale.recorded <= SMALL_DAY && !is_sliced {
            self.roll_up_whole(&stale, budget).await
        } else {
            self.roll_up_slices(stale, budget).await
        }
    }

    async fn roll_up_whole(&self, stale: &StaleDay, budget: &mut Budget) -> Result<u64, StoreError> {
        if !budget.take(stale.recorded) {
            return Ok(stale.recorded.saturating_sub(stale.rolled.values().sum()));
        }
        let sums = self.store.sums_between(self.user, self.bounds).await?;
        self.store.replace(self.user, (stale.day, DayPart::Whole), &sums).await?;
        Ok(stale.recorded.saturating_sub(records_in(&sums)))
    }

    /// Goes back from the newest slice until no record is missing. New records are nearly always in the
    /// newest slices.
    async fn roll_up_slices(&self, stale: StaleDay, budget: &mut Budget) -> Result<u64, StoreError> {
        let StaleDay { day, recorded, mut rolled } = stale;
        if let Some(whole) = rolled.remove(&DayPart::Whole) {
            // The first slice replaces the sums of the whole day, so all slices must follow at once.
            if !budget.take(recorded) {
                return Ok(recorded.saturating_sub(whole));
            }
            // Two servers have written both.
            if !rolled.is_empty() {
                self.store.replace(self.user, (day, DayPart::Whole), &[]).await?;
                rolled.clear();
            }
        }
        let mut in_all: u64 = rolled.values().sum();
        for number in (1..=self.slices()).rev() {
            if in_all == recorded {
                break;
            }
            let (part, between) = (DayPart::Slice(number), self.slice(number));
            let known = rolled.get(&part).copied().unwrap_or(0);
            let count = self.store.count_between(self.user, between).await?;
            budget.take_counted(count);
            if count == known {
                continue;
            }
            if !budget.take(count) {
                break;
            }
            let sums = self.sums_of(between, count).await?;
            if sums.len() > MOST_GROUPS {
                tracing::warn!(%day, groups = sums.len(), "use by model and API key has too many groups; left out");
                continue;
            }
            self.store.replace(self.user, (day, part), &sums).await?;
            in_all = (in_all - known).saturating_add(records_in(&sums));
        }
        Ok(recorded.saturating_sub(in_all))
    }

    fn slices(&self) -> u16 {
        let length = self.bounds.1 - self.bounds.0;
        let slices = (length.num_seconds() + SLICE.num_seconds() - 1) / SLICE.num_seconds();
        u16::try_from(slices).unwrap_or(MAX_SLICES).min(MAX_SLICES)
    }

    fn slice(&self, number: u16) -> (DateTime<Utc>, DateTime<Utc>) {
        let from = self.bounds.0 + SLICE * i32::from(number - 1);
        (from, (from + SLICE).min(self.bounds.1))
    }

    /// The sums of a span, read in pieces. A record that becomes visible in a piece that was read already
    /// is missing from the sums and from their count.
    async fn sums_of(
        &self,
        between: (DateTime<Utc>, DateTime<Utc>),
        count: u64,
    ) -> Result<Vec<(UseGroup, UseSums)>, StoreError> {
        let mut groups: BTreeMap<UseGroup, UseSums> = BTreeMap::new();
        let mut waiting = vec![(between, count)];
        // Ends: each piece is read, or replaced by its two halves, down to the shortest.
        while let Some(((from, before), count)) = waiting.pop() {
            if count <= SUMMED_AT_ONCE || before - from <= SHORTEST {
                for (group, sums) in self.store.sums_between(self.user, (from, before)).await? {
                    groups.entry(group).or_default().add(&sums);
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
        Ok(groups.into_iter().collect())
    }
}

fn records_in(groups: &[(UseGroup, UseSums)]) -> u64 {
    groups.iter().map(|(_, sums)| sums.records()).sum()
}
