//! Reads the history of accounts in pages, in the order of user, time and id.

use chrono::{DateTime, Utc};

use super::{
    content::{HistoryRow, Kind},
    store::{HistoryPage, SealStore},
};
use crate::biz::{
    jobs::retry::repeat,
    values::{error::StoreError, ids::UserId},
};

/// Rows that one statement reads.
const ROWS_AT_ONCE: u32 = 5_000;

/// Calls `each` for every row of a kind in the history of some users, which are in key order. A row that moves to the
/// archive meanwhile keeps its key, so it is read once.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Failed`].
pub(super) async fn read(
    store: &dyn SealStore,
    kind: Kind,
    users: &[UserId],
    (from, until): (DateTime<Utc>, DateTime<Utc>),
    mut each: impl FnMut(HistoryRow) + Send,
) -> Result<(), StoreError> {
    let mut rest = users;
    // Ends: each round has fewer users left.
    while !rest.is_empty() {
        let page = HistoryPage { users: rest, from, after_id: "", until, limit: ROWS_AT_ONCE };
        let rows = repeat(|| store.history(kind, page)).await?;
        let is_last = rows.len() < ROWS_AT_ONCE as usize;
        let mut end = rows.last().map(|row| (row.user.clone(), row.at, row.id.clone()));
        rows.into_iter().for_each(&mut each);
        if is_last {
            return Ok(());
        }
        // The page has ended within a user. Its further pages begin at the last row, and not at the first row of
        // the user again. Ends: each page begins behind the last one.
        while let Some((user, at, id)) = end.take() {
            let done = rest.partition_point(|other| *other <= user);
            rest = &rest[done..];
            let page =
                HistoryPage { users: std::slice::from_ref(&user), from: at, after_id: &id, until, limit: ROWS_AT_ONCE };
            let rows = repeat(|| store.history(kind, page)).await?;
            if rows.len() == ROWS_AT_ONCE as usize {
                end = rows.last().map(|row| (row.user.clone(), row.at, row.id.clone()));
            }
            rows.into_iter().for_each(&mut each);
        }
    }
    Ok(())
}
