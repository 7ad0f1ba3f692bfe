//! The daily rollup, made again from the records it sums up. Statistics, series and record
//! totals read it; the audit compares it.

use async_trait::async_trait;

use super::progress::{Progress, ScanPosition};
use crate::biz::{
    account::users::{UserSpan, Users},
    jobs::retry::unless_conflict,
    values::{error::StoreError, ids::UserId},
};

/// Users whose rollup is compared at once.
const USERS_AT_ONCE: u32 = 500;

/// Keeps the rollup.
#[async_trait]
pub trait RollupStore: Users {
    /// The users of a span whose rollup does not say what their records do, in one snapshot,
    /// in key order.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn differing(&self, users: &UserSpan) -> Result<Vec<UserId>, StoreError>;

    /// Makes the rollup of a user anew, in one transaction in which nobody else settles for
    /// them.
    ///
    /// # Errors
    /// [`StoreError::Conflict`]: nothing was changed; [`StoreError::Unavailable`],
    /// [`StoreError::Failed`].
    async fn rebuild(&self, user: &UserId) -> Result<(), StoreError>;
}

/// What a rebuild found, the runs included that it went on from.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Rebuilt {
    pub users: u64,
    /// Those whose rollup was wrong, and is right now unless it was a dry run.
    pub differing: u64,
}

/// Rebuilds the rollup of all users, from where `progress` says that it got to. Users whose
/// rollup is right are only read, and in a dry run all are.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Failed`]; what was rebuilt stays so.
pub async fn rebuild_rollup(
    store: &(impl RollupStore + ?Sized),
    is_dry_run: bool,
    progress: &dyn Progress,
) -> Result<Rebuilt, StoreError> {
    let mut scan = ScanPosition::<2>::of(progress);
    progress.expect(store.users_behind(scan.last.as_ref()).await?);
    // Ends: each span begins behind the last.
    while let Some((span, users)) = store.span(scan.last.as_ref(), USERS_AT_ONCE).await? {
        let differing = store.differing(&span).await?;
        if !is_dry_run {
            // Each alone: whoever is charged meanwhile waits for no other's records.
            for user in &differing {
                unless_conflict(|| store.rebuild(user)).await?;
            }
        }
        scan.counts[0] += users;
        scan.counts[1] += differing.len() as u64;
        scan.last = Some(span.last);
        progress.reached(&scan.to_string(), users).await?;
    }
    let [users, differing] = scan.counts;
    Ok(Rebuilt { users, differing })
}
