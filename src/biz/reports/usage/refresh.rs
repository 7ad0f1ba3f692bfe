//! Brings the rollup of a user up to date.
//!
//! A day is a row of parts. Each has the sums of the records of some time, and their number. One rule keeps
//! them exact: a change replaces parts as a whole, and holds only for the version of the day that it was made
//! from. So of two servers one writes, the other reads again, and a repeat is refused.
//!
//! A charge counts its records in the daily rollup, in its own transaction. Records are never changed or
//! deleted, and each is in at most one part. So numbers that are equal in one snapshot mean that all records
//! are in. It does not matter when a record became visible, or how old its time is.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::{Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};

use super::{
    DayChange, Part, UseDay, UseGroup, UseStore, UseSums,
    budget::{Budget, STATEMENT},
    missing_in,
    parts::{HOUR, Limits, MINUTE, MOST_ROWS, SUMMED_AT_ONCE, bounds_of, mergeable, millis},
};
use crate::biz::values::{
    calendar::{Calendar, DaySpan},
    error::StoreError,
    ids::UserId,
};

/// Records of a part from which on later records go to another one.
pub(super) const FULL: u64 = 1_000;
/// The newest part ends with a whole slice, so that its time has room for the next records.
const SLICE: u32 = 5 * MINUTE;
/// Most parts of a damaged day that are read at once.
const IDS_AT_ONCE: u32 = 100;
/// Most days whose comparison goes on where it ended. Others begin anew.
const MOST_WALKS: usize = 1_000;

/// The days whose parts are compared over several turns, and the place up to which they are still to be
/// compared.
#[derive(Debug, Default)]
pub struct Walks(Mutex<BTreeMap<(UserId, NaiveDate), u32>>);

impl Walks {
    fn places(&self) -> MutexGuard<'_, BTreeMap<(UserId, NaiveDate), u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, user: &UserId, day: NaiveDate) -> u32 {
        self.places().remove(&(user.clone(), day)).unwrap_or(u32::MAX)
    }

    fn note(&self, user: &UserId, day: NaiveDate, place: u32) {
        let mut places = self.places();
        if places.len() >= MOST_WALKS {
            places.clear();
        }
        places.insert((user.clone(), day), place);
    }
}

/// How a refresh ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// All records are in that were there at its beginning.
    Done,
    /// All parts were compared, and records are missing that the daily rollup counts.
    Lacking,
    /// The budget was used up.
    Early,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refreshed {
    pub end: End,
    /// The records that are missing at the end, as one snapshot shows it.
    pub missing: u64,
    /// The number of changes.
    pub changes: u64,
    /// Days that another process has changed meanwhile. They are left to the next refresh.
    pub conflicts: u64,
}

impl Refreshed {
    pub(super) const NOTHING: Self = Self { end: End::Done, missing: 0, changes: 0, conflicts: 0 };
}

/// Brings the days of `span` up to date, the newest first, within a budget. In the background, it also
/// merges parts.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Failed`]. The changes before the failure stay.
pub async fn refresh(
    store: &(impl UseStore + ?Sized),
    calendar: &Calendar,
    user: &UserId,
    span: DaySpan,
    mut budget: Budget,
    walks: &Walks,
) -> Result<Refreshed, StoreError> {
    let mut refreshed = Refreshed::NOTHING;
    for state in store.days(user, span).await? {
        if budget.is_over() {
            refreshed.end = End::Early;
            break;
        }
        let mut day = DayRollup {
            bounds: bounds_of(calendar, state.day),
            store,
            user,
            walks,
            state,
            budget,
            changes: 0,
            is_resumed: false,
        };
        let end = match day.bring_up_to_date(calendar).await {
            Err(StoreError::Conflict(_)) => {
                refreshed.conflicts += 1;
                End::Early
            }
            end => end?,
        };
        budget = day.budget;
        refreshed.end = refreshed.end.max(end);
        refreshed.changes += day.changes;
    }
    refreshed.missing = missing_in(&store.days(user, span).await?);
    Ok(refreshed)
}

/// Lets a day be summed anew. Until then, its reads say that it lacks everything.
///
/// # Errors
/// As [`UseStore::change`].
pub async fn discard(store: &(impl UseStore + ?Sized), user: &UserId, day: NaiveDate) -> Result<(), StoreError> {
    let known = store.days(user, DaySpan { first: day, last: day }).await?;
    let version = known.first().map_or(0, |known| known.version);
    let (removed, added) = (Vec::new(), Vec::new());
    store.change(user, DayChange { day, version, parts: None, removed, added }).await
}

/// A step ends the work on a day, or lets it go on.
type Step = ControlFlow<End>;

/// A day of a user.
struct DayRollup<'a, S: ?Sized> {
    store: &'a S,
    user: &'a UserId,
    bounds: (DateTime<Utc>, DateTime<Utc>),
    walks: &'a Walks,
    state: UseDay,
    budget: Budget,
    changes: u64,
    /// Whether the comparison of the parts has gone on where an earlier turn ended.
    is_resumed: bool,
}

impl<S: UseStore + ?Sized> DayRollup<'_, S> {
    async fn bring_up_to_date(&mut self, calendar: &Calendar) -> Result<End, StoreError> {
        let end = self.roll_up(calendar.now().utc).await?;
        if !self.budget.is_of_request() {
            self.merge(calendar).await?;
        }
        Ok(end)
    }

    async fn roll_up(&mut self, now: DateTime<Utc>) -> Result<End, StoreError> {
        if self.state.is_equal() {
            return Ok(End::Done);
        }
        let at_first = self.state.recorded;
        if let ControlFlow::Break(end) = self.steps(now).await? {
            return Ok(end);
        }
        if !self.budget.is_of_request() {
            self.read_again().await?;
        }
        // All records were compared that were visible at the beginning, and the charges count them all.
        let is_in = (at_first..=self.state.recorded).contains(&self.state.in_all());
        // Late records may have come to the parts that an earlier turn has compared.
        let otherwise = if self.is_resumed { End::Early } else { End::Lacking };
        Ok(if is_in { End::Done } else { otherwise })
    }

    async fn steps(&mut self, now: DateTime<Utc>) -> Result<Step, StoreError> {
        if self.state.parts.is_none()
            && let ControlFlow::Break(end) = self.clear().await?
        {
            return Ok(ControlFlow::Break(end));
        }
        let mut end = millis(self.bounds.0, self.bounds.1);
        if now < self.bounds.1 {
            if !self.budget.take(STATEMENT) {
                return Ok(ControlFlow::Break(End::Early));
            }
            let Some(newest) = self.store.newest_between(self.user, self.bounds).await? else {
                return Ok(ControlFlow::Continue(()));
            };
            end = end.min((millis(self.bounds.0, newest) / SLICE + 1) * SLICE);
        }
        // Some zones have skipped a whole day.
        if end == 0 {
            return Ok(ControlFlow::Continue(()));
        }
        if self.state.recorded <= FULL {
            return self.sum((0, end), self.state.recorded).await;
        }
        let step = self.fill_gaps(end).await?;
        if step.is_break() { Ok(step) } else { self.compare_parts().await }
    }

    /// Removes the rows of a damaged day. It stays damaged until all are gone.
    async fn clear(&mut self) -> Result<Step, StoreError> {
        if self.budget.is_of_request() {
            return Ok(ControlFlow::Break(End::Early));
        }
        // Ends: each round removes the rows that it has found.
        loop {
            let ids = self.store.part_ids(self.user, self.state.day, IDS_AT_ONCE).await?;
            if ids.is_empty() {
                break;
            }
            for id in ids {
                if self.budget.is_over() {
                    return Ok(ControlFlow::Break(End::Early));
                }
                self.change(None, vec![id], Vec::new()).await?;
            }
        }
        self.change(Some(Vec::new()), Vec::new(), Vec::new()).await?;
        Ok(ControlFlow::Continue(()))
    }

    /// Sums the times that have no part yet, the newest first, up to `end`.
    async fn fill_gaps(&mut self, end: u32) -> Result<Step, StoreError> {
        let (mut gaps, mut from) = (Vec::new(), 0);
        for part in self.state.parts() {
            gaps.push((from, part.from));
            from = part.until;
        }
        gaps.push((from, end));
        for (from, until) in gaps.into_iter().rev().filter(|(from, until)| from < until) {
            let step = self.fill(from, until).await?;
            if step.is_break() {
                return Ok(step);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Sums a gap, from its end back, in parts of [`FULL`] records where it can. Records of hours with few
    /// calls become one part.
    async fn fill(&mut self, first: u32, end: u32) -> Result<Step, StoreError> {
        let (mut from, mut until, mut collected) = (end, end, 0);
        while from > first {
            let is_first = from == end;
            let is_free = is_first && !self.budget.is_of_request();
            if !is_free && (self.budget.is_over() || !self.budget.take(STATEMENT)) {
                // Counted records are summed, so that each turn comes further.
                let step =
                    if is_first { ControlFlow::Continue(()) } else { self.sum((from, until), collected).await? };
                return Ok(if step.is_break() { step } else { ControlFlow::Break(End::Early) });
            }
            let earlier = first.max((from - 1) / HOUR * HOUR);
            let count = self.count((earlier, from)).await?;
            if collected > 0 && collected + count > FULL {
                let step = self.sum((from, until), collected).await?;
                if step.is_break() {
                    return Ok(step);
                }
                (until, collected) = (from, 0);
            }
            (from, collected) = (earlier, collected + count);
        }
        // A part with few records grows instead of a new one.
        let before = self.state.parts().iter().find(|part| part.until == first);
        if let Some(before) = before.filter(|before| before.records + collected <= FULL) {
            (from, collected) = (before.from, before.records + collected);
        }
        self.sum((from, until), collected).await
    }

    /// Counts the records of each part, the newest first, and sums those that have others. Goes on where the
    /// last turn has ended.
    async fn compare_parts(&mut self) -> Result<Step, StoreError> {
        let day = self.state.day;
        let place = if self.budget.is_of_request() { u32::MAX } else { self.walks.take(self.user, day) };
        self.is_resumed = place < u32::MAX;
        let parts: Vec<Part> = self.state.parts().iter().rev().filter(|part| part.until <= place).copied().collect();
        for part in parts {
            let (is_over, is_of_request) = (self.budget.is_over(), self.budget.is_of_request());
            let mut step = ControlFlow::Break(End::Early);
            if !is_over && self.budget.take(STATEMENT) {
                let count = self.count((part.from, part.until)).await?;
                step = ControlFlow::Continue(());
                if count != part.records {
                    step = self.sum((part.from, part.until), count).await?;
                }
            }
            if step == ControlFlow::Break(End::Early) && !is_of_request {
                self.walks.note(self.user, day, part.until);
            }
            if step.is_break() {
                return Ok(step);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Sums the `count` records of a time, in pieces where they are many. Ends the work on the day if no
    /// record is missing then.
    async fn sum(&mut self, time: (u32, u32), count: u64) -> Result<Step, StoreError> {
        if !self.budget.take(count) {
            return Ok(ControlFlow::Break(End::Early));
        }
        let mut waiting = vec![(time, count)];
        // Ends: each piece becomes a part, or is replaced by its two halves, down to a millisecond.
        while let Some(((from, until), count)) = waiting.pop() {
            // At least one piece is summed in each turn.
            if self.budget.is_over() && self.changes > 0 {
                return Ok(ControlFlow::Break(End::Early));
            }
            let is_shortest = until - from <= 1;
            if count <= SUMMED_AT_ONCE || is_shortest {
                let groups = self.store.sums_between(self.user, self.instants((from, until))).await?;
                if groups.len() as u64 <= MOST_ROWS || is_shortest {
                    self.put((from, until), groups).await?;
                    continue;
                }
            }
            let middle = from + (until - from) / 2;
            let earlier = self.count((from, middle)).await?;
            waiting.push(((from, middle), earlier));
            waiting.push(((middle, until), count.saturating_sub(earlier)));
        }
        self.done_or_on().await
    }

    /// Whether a record is missing. New records may have taken the place of missing ones, so the background
    /// reads the numbers again. An account that is charged all the time does not end its work early, but its
    /// parts do.
    async fn done_or_on(&mut self) -> Result<Step, StoreError> {
        if self.state.in_all() < self.state.recorded {
            return Ok(ControlFlow::Continue(()));
        }
        if !self.budget.is_of_request() {
            self.read_again().await?;
            if !self.state.is_equal() {
                return Ok(ControlFlow::Continue(()));
            }
        }
        Ok(ControlFlow::Break(End::Done))
    }

    async fn read_again(&mut self) -> Result<(), StoreError> {
        let day = self.state.day;
        let again = self.store.days(self.user, DaySpan { first: day, last: day }).await?.pop();
        let again = again.filter(|again| again.version == self.state.version);
        self.state = again.ok_or_else(|| StoreError::Conflict("another server has changed the day".into()))?;
        Ok(())
    }

    async fn count(&mut self, time: (u32, u32)) -> Result<u64, StoreError> {
        let count = self.store.count_between(self.user, self.instants(time)).await?;
        self.budget.counted(count);
        Ok(count)
    }

    fn instants(&self, (from, until): (u32, u32)) -> (DateTime<Utc>, DateTime<Utc>) {
        let at = |millis: u32| (self.bounds.0 + TimeDelta::milliseconds(millis.into())).min(self.bounds.1);
        (at(from), at(until))
    }

    /// Replaces the parts of a time by one.
    async fn put(&mut self, time: (u32, u32), groups: Vec<(UseGroup, UseSums)>) -> Result<(), StoreError> {
        // Ends: a part is gone after each round.
        loop {
            let old = self.overlapping(time);
            if old.len() <= 1 || old.iter().map(|part| part.rows).sum::<u64>() <= MOST_ROWS {
                break;
            }
            let kept = self.state.parts().iter().filter(|part| part.id != old[0].id).copied().collect();
            self.change(Some(kept), vec![old[0].id], Vec::new()).await?;
        }
        let (from, until) = time;
        let removed: Vec<u64> = self.overlapping(time).iter().map(|part| part.id).collect();
        let id = self.state.version.saturating_add(1);
        let records = groups.iter().map(|(_, sums)| sums.records()).sum();
        let mut parts = self.state.parts().to_vec();
        parts.retain(|part| !removed.contains(&part.id));
        parts.push(Part { id, from, until, records, rows: groups.len() as u64 });
        parts.sort_by_key(|part| part.from);
        self.change(Some(parts), removed, groups).await
    }

    fn overlapping(&self, (from, until): (u32, u32)) -> Vec<Part> {
        self.state.parts().iter().filter(|part| part.from < until && from < part.until).copied().collect()
    }

    async fn change(
        &mut self,
        parts: Option<Vec<Part>>,
        removed: Vec<u64>,
        added: Vec<(UseGroup, UseSums)>,
    ) -> Result<(), StoreError> {
        let UseDay { day, version, .. } = self.state;
        let change = DayChange { day, version, parts: parts.clone(), removed, added };
        let next = change.next();
        self.store.change(self.user, change).await?;
        self.state = UseDay { version: next, parts, ..self.state };
        self.changes += 1;
        Ok(())
    }

    /// Merges neighbours, so that an old day has few rows.
    async fn merge(&mut self, calendar: &Calendar) -> Result<(), StoreError> {
        let limits = Limits::of(calendar, self.state.day);
        // Ends: each round has fewer parts.
        while !self.budget.is_over() {
            let Some(run) = mergeable(self.state.parts(), &limits).map(<[Part]>::to_vec) else { break };
            let mut groups: BTreeMap<UseGroup, UseSums> = BTreeMap::new();
            for part in &run {
                for (group, sums) in self.store.part_sums(self.user, self.state.day, part.id).await? {
                    groups.entry(group).or_default().add(&sums);
                }
            }
            // The new part has the number of records of its rows. So it lacks those whose rows were lost.
            if let (Some(first), Some(last)) = (run.first(), run.last()) {
                self.put((first.from, last.until), groups.into_iter().collect()).await?;
            }
        }
        Ok(())
    }
}
