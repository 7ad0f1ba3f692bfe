//! Cuts the work of an audit into statements of a bounded size.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

use super::counts::{Counting, LEAST_UNSURE};
use crate::biz::{
    jobs::{
        retry::repeat,
        seals::store::{END, SealStore, Since, TimeSpan, TraceSpan, USERS_AT_ONCE},
    },
    values::{calendar::Calendar, error::StoreError, ids::UserId},
};

/// Most rows that one statement of an audit compares, and most accounts that the nightly audit reads at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AtOnce {
    /// Records of several users.
    pub records: u64,
    /// Records, or transactions, of one user with more records than that.
    pub of_one_user: u32,
    /// Accounts between two checkpoints of the nightly audit. Most of them have not changed since their seals.
    pub users: u32,
}

impl Default for AtOnce {
    fn default() -> Self {
        Self { records: 40_000, of_one_user: 200_000, users: 20_000 }
    }
}

/// The parts that an audit reads with.
#[derive(Clone, Copy)]
pub struct Sources<'s> {
    pub store: &'s dyn SealStore,
    pub calendar: &'s Calendar,
    pub at_once: AtOnce,
    /// As [`Counting::unsure`].
    pub unsure: TimeDelta,
    /// Records before it are compared in sum only: an earlier audit has compared them one by one.
    pub proven: Since,
}

impl<'s> Sources<'s> {
    pub fn new(store: &'s dyn SealStore, calendar: &'s Calendar) -> Self {
        Self { store, calendar, at_once: AtOnce::default(), unsure: LEAST_UNSURE, proven: Since::BEGINNING }
    }

    pub(super) fn counting(&self) -> Counting {
        Counting { periods: self.calendar.periods(), unsure: self.unsure }
    }
}

/// Users whose sizes one statement reads.
const SIZES_AT_ONCE: usize = 5_000;

/// Users that are compared together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub users: Vec<UserId>,
    /// Whether it is one user with more records than one statement compares.
    pub is_large: bool,
}

/// The groups of some users, by the number of their records since `since`.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Failed`].
pub async fn groups(sources: Sources<'_>, users: &[UserId], since: Since) -> Result<Vec<Group>, StoreError> {
    let mut sizes = BTreeMap::new();
    for some in users.chunks(SIZES_AT_ONCE) {
        sizes.extend(repeat(|| sources.store.unsealed_sizes(some, since)).await?);
    }
    Ok(grouped(users, &sizes, sources.at_once.records))
}

fn grouped(users: &[UserId], sizes: &BTreeMap<UserId, u64>, most: u64) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut total = 0_u64;
    for user in users {
        let size = sizes.get(user).copied().unwrap_or(0);
        let is_large = size > most;
        total = total.saturating_add(size);
        match groups.last_mut() {
            Some(group) if !group.is_large && total <= most && group.users.len() < USERS_AT_ONCE => {
                group.users.push(user.clone());
            }
            _ => {
                groups.push(Group { users: vec![user.clone()], is_large });
                total = size;
            }
        }
    }
    groups
}

/// The spans of times of the records of a group since `since`, each for one statement. All records of one time are
/// in one span.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Failed`].
pub async fn time_spans(sources: Sources<'_>, group: &Group, since: Since) -> Result<Vec<TimeSpan>, StoreError> {
    let Sources { store, at_once, .. } = sources;
    let (mut ends, mut from): (Vec<DateTime<Utc>>, _) = (Vec::new(), since.at);
    if let (true, Some(user)) = (group.is_large, group.users.first()) {
        // Ends, because each time is behind the last one.
        while let Some(end) = repeat(|| store.time_behind(user, from, at_once.of_one_user)).await? {
            ends.push(end);
            from = end;
        }
    }
    let is_part = !ends.is_empty();
    let begins = std::iter::once(since.at).chain(ends.clone());
    let spans = begins.zip(ends.into_iter().chain([Since::END]));
    Ok(spans.map(|(from, until)| TimeSpan { from, until, is_part }).collect())
}

/// The spans of trace ids of the transactions of a group, each for one statement.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Failed`].
pub async fn trace_spans(sources: Sources<'_>, group: &Group) -> Result<Vec<TraceSpan>, StoreError> {
    let Sources { store, at_once, .. } = sources;
    let mut spans = Vec::new();
    let mut after = String::new();
    if let (true, Some(user)) = (group.is_large, group.users.first()) {
        // Ends, because each span begins behind the last one.
        while let Some(last) = repeat(|| store.trace_behind(user, &after, at_once.of_one_user)).await? {
            spans.push(TraceSpan { after: std::mem::replace(&mut after, last.clone()), last });
        }
    }
    spans.push(TraceSpan { after, last: END.to_owned() });
    Ok(spans)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_grouped_up_to_both_limits_and_a_large_one_is_alone() {
        let most = AtOnce::default().records;
        let users: Vec<UserId> = ["a", "b", "c", "d", "e", "f"].map(UserId::from_stored).into();
        let sizes = [1, most - 1, 1, most + 1, 0, 2];
        let sizes = users.iter().cloned().zip(sizes).collect();
        let shown = |groups: Vec<Group>| {
            let shown = |group: Group| (group.users.iter().map(UserId::as_str).collect::<String>(), group.is_large);
            groups.into_iter().map(shown).collect::<Vec<_>>()
        };
        let expected = [("ab", false), ("c", false), ("d", true), ("ef", false)];
        assert_eq!(shown(grouped(&users, &sizes, most)), expected.map(|(users, large)| (users.to_owned(), large)));
        let many: Vec<UserId> = (0..=USERS_AT_ONCE).map(|n| UserId::from_stored(format!("{n:05}"))).collect();
        let lengths: Vec<usize> =
            grouped(&many, &BTreeMap::new(), most).iter().map(|group| group.users.len()).collect();
        assert_eq!(lengths, [USERS_AT_ONCE, 1]);
    }
}
