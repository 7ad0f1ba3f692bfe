//! Retention: records that are older than a set number of months move to an archive, where
//! lists, exports and the audit still see them. What every charge writes stays small.

use std::num::NonZeroU32;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::progress::{Progress, ScanPosition};
use crate::biz::{
    account::users::{UserSpan, Users},
    jobs::retry::unless_conflict,
    values::{
        calendar::{Calendar, Month},
        error::StoreError,
        ids::UserId,
    },
};

/// Users among whom those with old records are looked for at once.
const USERS_AT_ONCE: u32 = 1_000;
/// Of those with old records, whose records move together.
const MOVED_TOGETHER: usize = 50;
/// Records that move in one transaction.
const RECORDS_AT_ONCE: u32 = 1_000;

/// Keeps old records. Reads and writes no others, however many there are.
#[async_trait]
pub trait RecordArchive: Users {
    /// The users of a span who have records that are older than `before`, in key order.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn users_with_old(&self, users: &UserSpan, before: DateTime<Utc>) -> Result<Vec<UserId>, StoreError>;

    /// Moves at most `limit` records of some users that are older than `before`, in one
    /// transaction; how many were moved. Fewer than `limit`: there are no more.
    ///
    /// # Errors
    /// [`StoreError::Conflict`]: nothing was moved; [`StoreError::Unavailable`],
    /// [`StoreError::Failed`].
    async fn archive(&self, users: &[UserId], before: DateTime<Utc>, limit: u32) -> Result<u64, StoreError>;

    /// How many records of some users [`Self::archive`] would move in all.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn count_old(&self, users: &[UserId], before: DateTime<Utc>) -> Result<u64, StoreError>;
}

/// What a run did, or a dry run would have done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Archived {
    /// Those included that the run moved which this one goes on from.
    pub records: u64,
    /// The first month whose records stay.
    pub first_kept: Month,
}

/// Moves the records from before the last so many months and this one, from where `progress`
/// says that it got to.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Failed`]; what was moved stays so.
pub async fn archive_records(
    store: &(impl RecordArchive + ?Sized),
    calendar: &Calendar,
    months: NonZeroU32,
    is_dry_run: bool,
    progress: &dyn Progress,
) -> Result<Archived, StoreError> {
    let first_kept = (0..months.get()).fold(calendar.now().month, |month, _| month.previous());
    let before = calendar.start_of(first_kept.first_day());
    let mut scan = ScanPosition::<1>::of(progress);
    progress.expect(store.users_behind(scan.last.as_ref()).await?);
    // Ends: each span begins behind the last.
    while let Some((span, users)) = store.span(scan.last.as_ref(), USERS_AT_ONCE).await? {
        for some in store.users_with_old(&span, before).await?.chunks(MOVED_TOGETHER) {
            scan.counts[0] +=
                if is_dry_run { store.count_old(some, before).await? } else { move_all(store, some, before).await? };
        }
        scan.last = Some(span.last);
        progress.reached(&scan.to_string(), users).await?;
    }
    Ok(Archived { records: scan.counts[0], first_kept })
}

/// Moves the old records of some users.
async fn move_all(
    store: &(impl RecordArchive + ?Sized),
    users: &[UserId],
    before: DateTime<Utc>,
) -> Result<u64, StoreError> {
    let mut moved = 0;
    loop {
        let count = unless_conflict(|| store.archive(users, before, RECORDS_AT_ONCE)).await?;
        moved += count;
        if count < u64::from(RECORDS_AT_ONCE) {
            return Ok(moved);
        }
    }
}
