//! Compares charges with their records, one by one, in both directions.

use std::collections::BTreeSet;

use super::{
    books::DifferingTransaction,
    pieces::{Group, Sources, groups, time_spans, trace_spans},
};
use crate::biz::{
    jobs::{retry::repeat, seals::store::Since},
    values::{error::StoreError, ids::UserId},
};

/// Most differing transactions that one statement reads of each user.
const MAX_TRANSACTIONS: u32 = 10_000;
/// Trace ids that one statement looks for.
const TRACES_AT_ONCE: usize = 10_000;

/// Notes a transaction that differs from its records.
pub type Note<'n> = &'n mut (dyn FnMut(UserId, DifferingTransaction) + Send);

/// Compares all transactions of some users with all their records.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Failed`].
pub async fn compare_all_charges(sources: Sources<'_>, users: &[UserId], note: Note<'_>) -> Result<(), StoreError> {
    for group in groups(sources, users, Since::BEGINNING).await? {
        compare_records(sources, &group, Since::BEGINNING, note).await?;
        compare_unrecorded(sources, &group, Since::BEGINNING, note).await?;
    }
    Ok(())
}

/// Compares the records of a group since `since` with their transactions. Reads each record once.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Failed`].
pub async fn compare_records(
    sources: Sources<'_>,
    group: &Group,
    since: Since,
    note: Note<'_>,
) -> Result<(), StoreError> {
    for span in time_spans(sources, group, since).await? {
        let mut users = &group.users[..];
        // Ends: each round has fewer users left.
        while !users.is_empty() {
            let found = repeat(|| sources.store.differing_charges(users, &span, MAX_TRANSACTIONS)).await?;
            users = rest(users, &found, MAX_TRANSACTIONS);
            found.into_iter().for_each(|(user, transaction)| note(user, transaction));
        }
    }
    Ok(())
}

/// Finds the charges of a group since `since` without records. Reads each transaction of the group once.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Failed`].
pub async fn compare_unrecorded(
    sources: Sources<'_>,
    group: &Group,
    since: Since,
    note: Note<'_>,
) -> Result<(), StoreError> {
    let limit = sources.at_once.of_one_user;
    let mut without = Vec::new();
    for span in trace_spans(sources, group).await? {
        let mut users = &group.users[..];
        // Ends: each round has fewer users left.
        while !users.is_empty() {
            let found = repeat(|| sources.store.unrecorded(users, since, &span, limit)).await?;
            users = rest(users, &found, limit);
            without.extend(found);
        }
        // Late charges have records of a later time. A look for them reads all records since `since`.
        if without.len() >= TRACES_AT_ONCE {
            note_unrecorded(sources, group, since, (std::mem::take(&mut without), &mut *note)).await?;
        }
    }
    note_unrecorded(sources, group, since, (without, note)).await
}

async fn note_unrecorded(
    sources: Sources<'_>,
    group: &Group,
    since: Since,
    (without, note): (Vec<(UserId, DifferingTransaction)>, Note<'_>),
) -> Result<(), StoreError> {
    for some in without.chunks(TRACES_AT_ONCE) {
        let traces: Vec<String> = some.iter().map(|(_, transaction)| transaction.trace.clone()).collect();
        let recorded = repeat(|| sources.store.recorded(&group.users, since, &traces)).await?;
        let recorded: BTreeSet<(UserId, String)> = recorded.into_iter().collect();
        for (user, transaction) in some {
            if !recorded.contains(&(user.clone(), transaction.trace.clone())) {
                note(user.clone(), transaction.clone());
            }
        }
    }
    Ok(())
}

/// The users behind the last one that was found, if the statement has found as many as it may.
fn rest<'u>(users: &'u [UserId], found: &[(UserId, DifferingTransaction)], limit: u32) -> &'u [UserId] {
    match found.last() {
        Some((last, _)) if found.len() >= limit as usize => &users[users.partition_point(|user| user <= last)..],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::biz::{jobs::audit::books::ChargeBook, values::money::Money};

    #[test]
    fn a_full_statement_is_followed_by_one_for_the_users_behind_its_last() {
        let users = ["a", "b", "c"].map(UserId::from_stored);
        let none = ChargeBook { free: 0, paid: 0, amount: Money::ZERO };
        let found = ["a", "b"].map(|user| {
            let transaction = DifferingTransaction { trace: "t".into(), transaction: none, records: none };
            (UserId::from_stored(user), transaction)
        });
        assert_eq!(rest(&users, &found, 3), []);
        assert_eq!(rest(&users, &found, 2), &users[2..]);
        assert_eq!(rest(&users, &[], 2), []);
    }
}
