//! Rebuilds the daily rollup from the records. Statistics, series and record totals read the rollup,
//! and the audit compares it with the records.

use async_trait::async_trait;

use super::progress::{Progress, ScanPosition};
use crate::biz::{
    account::users::{UserSpan, Users},
    jobs::retry::repeat,
    values::{error::StoreError, ids::UserId},
};

/// Users whose rollup is compared in one query.
const USERS_AT_ONCE: u32 = 500;

/// Compares and rebuilds the rollup.
#[async_trait]
pub trait RollupStore: Users {
    /// The users of a span whose rollup differs from their records, in one snapshot, in key order.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn differing(&self, users: &UserSpan) -> Result<Vec<UserId>, StoreError>;

    /// Rebuilds the rollup of a user in one transaction, which locks out settlements for the user.
    ///
    /// # Errors
    /// [`StoreError::Conflict`]: nothing was changed; [`StoreError::Unavailable`],
    /// [`StoreError::Failed`].
    async fn rebuild(&self, user: &UserId) -> Result<(), StoreError>;
}

/// The result of a rebuild. It includes the interrupted run from which this one resumes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Rebuilt {
    pub users: u64,
    /// Users whose rollup differed. A run has rebuilt it; a dry run has not.
    pub differing: u64,
}

/// Rebuilds the rollup of each user whose rollup differs from the records. Resumes from the
/// checkpoint of `progress`. A dry run only reads.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Failed`]; rebuilt rollups stay.
pub async fn rebuild_rollup(
    store: &(impl RollupStore + ?Sized),
    is_dry_run: bool,
    progress: &dyn Progress,
) -> Result<Rebuilt, StoreError> {
    let mut scan = ScanPosition::<2>::of(progress);
    progress.expect(store.users_behind(scan.last.as_ref()).await?);
    // Ends: each span begins behind the last.
    while let Some((span, users)) = repeat(|| store.span(scan.last.as_ref(), USERS_AT_ONCE)).await? {
        let differing = repeat(|| store.differing(&span)).await?;
        if !is_dry_run {
            // One transaction per user, so that a charge waits for the rebuild of its own user only.
            for user in &differing {
                repeat(|| store.rebuild(user)).await?;
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
