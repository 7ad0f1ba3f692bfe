//! Retention: records older than `billing.record_months` move to an archive. Lists, exports and the
//! audit still read them there. The table that every charge writes stays small.

use std::num::NonZeroU32;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::progress::{Progress, ScanPosition};
use crate::biz::{
    account::users::{UserSpan, Users},
    jobs::retry::repeat,
    values::{
        calendar::{Calendar, Month},
        error::StoreError,
        ids::UserId,
    },
};

/// Users that are searched for old records in one query.
const USERS_AT_ONCE: u32 = 1_000;
/// Users with old records whose records move together.
const MOVED_TOGETHER: usize = 50;
/// Records that move in one transaction.
const RECORDS_AT_ONCE: u32 = 1_000;

/// Archives old records. Its queries read no newer records, so their cost depends on the old ones
/// only.
#[async_trait]
pub trait RecordArchive: Users {
    /// The users of a span with records older than `before`, in key order.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn users_with_old(&self, users: &UserSpan, before: DateTime<Utc>) -> Result<Vec<UserId>, StoreError>;

    /// Moves at most `limit` records older than `before` of `users`, in one transaction. Returns
    /// the number of moved records; fewer than `limit` means that none remain.
    ///
    /// # Errors
    /// [`StoreError::Conflict`]: nothing was moved; [`StoreError::Unavailable`],
    /// [`StoreError::Failed`].
    async fn archive(&self, users: &[UserId], before: DateTime<Utc>, limit: u32) -> Result<u64, StoreError>;

    /// The number of records of `users` that [`Self::archive`] would move in all.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn count_old(&self, users: &[UserId], before: DateTime<Utc>) -> Result<u64, StoreError>;
}

/// The result of a run or a dry run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Archived {
    /// Moved records, including those of the interrupted run from which this one resumes.
    pub records: u64,
    /// The first month whose records stay.
    pub first_kept: Month,
}

/// Moves the records from before this month and the last `months` months. Resumes from the
/// checkpoint of `progress`.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Failed`]; moved records stay in the archive.
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
    while let Some((span, users)) = repeat(|| store.span(scan.last.as_ref(), USERS_AT_ONCE)).await? {
        for some in repeat(|| store.users_with_old(&span, before)).await?.chunks(MOVED_TOGETHER) {
            scan.counts[0] += if is_dry_run {
                repeat(|| store.count_old(some, before)).await?
            } else {
                move_all(store, some, before).await?
            };
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
        let count = repeat(|| store.archive(users, before, RECORDS_AT_ONCE)).await?;
        moved += count;
        if count < u64::from(RECORDS_AT_ONCE) {
            return Ok(moved);
        }
    }
}
