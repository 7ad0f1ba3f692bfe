//! Cuts the work of an audit into statements of a bounded size.

use std::collections::BTreeMap;

use super::books::DifferingTransaction;
use crate::biz::{
    jobs::{
        retry::repeat,
        seals::store::{SealStore, Since, TraceSpan, USERS_AT_ONCE},
    },
    values::{error::StoreError, ids::UserId},
};

/// Most records of the users that one statement compares, unless they are of one user.
const RECORDS_AT_ONCE: u64 = 40_000;
/// Users whose sizes one statement reads.
const SIZES_AT_ONCE: usize = 5_000;
/// Transactions of one user that one statement compares.
const TRACES_AT_ONCE: u32 = 200_000;
/// Most differing transactions that one statement reads.
const MAX_TRANSACTIONS: u32 = 10_000;

/// Users that are compared together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub users: Vec<UserId>,
    /// Whether it is one user with more records than one statement compares.
    pub is_large: bool,
}

/// The groups of some users, by the number of their unsealed records.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Failed`].
pub async fn groups(store: &dyn SealStore, users: &[UserId], since: Since) -> Result<Vec<Group>, StoreError> {
    let mut sizes = BTreeMap::new();
    for some in users.chunks(SIZES_AT_ONCE) {
        sizes.extend(repeat(|| store.unsealed_sizes(some, since)).await?);
    }
    Ok(grouped(users, &sizes))
}

fn grouped(users: &[UserId], sizes: &BTreeMap<UserId, u64>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut total = 0_u64;
    for user in users {
        let size = sizes.get(user).copied().unwrap_or(0);
        let is_large = size > RECORDS_AT_ONCE;
        total = total.saturating_add(size);
        match groups.last_mut() {
            Some(group) if !group.is_large && total <= RECORDS_AT_ONCE && group.users.len() < USERS_AT_ONCE => {
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

/// The spans of trace ids of a group, each for one statement.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Failed`].
pub async fn trace_spans(store: &dyn SealStore, group: &Group) -> Result<Vec<TraceSpan>, StoreError> {
    let mut spans = Vec::new();
    let mut after = String::new();
    if let (true, Some(user)) = (group.is_large, group.users.first()) {
        // Ends, because each span begins behind the last one.
        while let Some(last) = repeat(|| store.trace_behind(user, &after, TRACES_AT_ONCE)).await? {
            spans.push(TraceSpan { after: std::mem::replace(&mut after, last.clone()), last });
        }
    }
    spans.push(TraceSpan::behind(after));
    Ok(spans)
}

/// Calls `note` for each transaction of some users, in key order, that differs from all its records.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Failed`].
pub async fn compare_transactions(
    store: &dyn SealStore,
    users: &[UserId],
    note: &mut (dyn FnMut(UserId, DifferingTransaction) + Send),
) -> Result<(), StoreError> {
    for group in groups(store, users, Since::BEGINNING).await? {
        for span in trace_spans(store, &group).await? {
            let differing = repeat(|| store.differing_transactions(&group.users, &span, MAX_TRANSACTIONS)).await?;
            differing.into_iter().for_each(|(user, transaction)| note(user, transaction));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_grouped_up_to_both_limits_and_a_large_one_is_alone() {
        let most = RECORDS_AT_ONCE;
        let users: Vec<UserId> = ["a", "b", "c", "d", "e", "f"].map(UserId::from_stored).into();
        let sizes = [1, most - 1, 1, most + 1, 0, 2];
        let sizes = users.iter().cloned().zip(sizes).collect();
        let shown = |groups: Vec<Group>| {
            let shown = |group: Group| (group.users.iter().map(UserId::as_str).collect::<String>(), group.is_large);
            groups.into_iter().map(shown).collect::<Vec<_>>()
        };
        let expected = [("ab", false), ("c", false), ("d", true), ("ef", false)];
        assert_eq!(shown(grouped(&users, &sizes)), expected.map(|(users, large)| (users.to_owned(), large)));
        let many: Vec<UserId> = (0..=USERS_AT_ONCE).map(|n| UserId::from_stored(format!("{n:05}"))).collect();
        let lengths: Vec<usize> = grouped(&many, &BTreeMap::new()).iter().map(|group| group.users.len()).collect();
        assert_eq!(lengths, [USERS_AT_ONCE, 1]);
    }
}
