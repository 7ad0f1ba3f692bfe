//! Retention: records that are older than a set number of months move to an archive, where
//! lists, exports and the audit still see them. What every charge writes stays small.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{
    calendar::{Calendar, Month},
    error::StoreError,
    progress::{Progress, Walked},
    users::{UserSpan, Users},
};

/// Users among whose records the old ones are looked for at once.
const USERS_AT_ONCE: u32 = 1_000;
/// Records that move in one transaction.
const RECORDS_AT_ONCE: u32 = 1_000;
/// The longest rest after a transaction. Each is as long as the transaction took, so that
/// half of the time is left to others.
const LONGEST_REST: Duration = Duration::from_secs(1);
/// Losing to another transaction repeats one this often.
const ATTEMPTS: u32 = 5;

/// Keeps old records.
#[async_trait]
pub trait RecordArchive: Users {
    /// Moves at most `limit` records of the users of a span that are older than `before`, in
    /// one transaction; how many were moved. Fewer than `limit`: there are no more.
    ///
    /// # Errors
    /// [`StoreError::Conflict`]: nothing was moved; [`StoreError::Unavailable`],
    /// [`StoreError::Failed`].
    async fn archive(&self, users: &UserSpan, before: DateTime<Utc>, limit: u32) -> Result<u64, StoreError>;

    /// How many records of the users of a span [`Self::archive`] would move in all.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn count_old(&self, users: &UserSpan, before: DateTime<Utc>) -> Result<u64, StoreError>;
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
    let mut walked = Walked::<1>::of(progress);
    progress.expect(store.users_behind(walked.last.as_ref()).await?);
    // Ends: each span begins behind the last.
    while let Some((span, users)) = store.span(walked.last.as_ref(), USERS_AT_ONCE).await? {
        walked.counts[0] +=
            if is_dry_run { store.count_old(&span, before).await? } else { move_all(store, &span, before).await? };
        walked.last = Some(span.last);
        progress.reached(&walked.to_string(), users).await?;
    }
    Ok(Archived { records: walked.counts[0], first_kept })
}

/// Moves the old records of a span.
async fn move_all(
    store: &(impl RecordArchive + ?Sized),
    span: &UserSpan,
    before: DateTime<Utc>,
) -> Result<u64, StoreError> {
    let (mut moved, mut attempt) = (0, 1);
    loop {
        let begun = Instant::now();
        match store.archive(span, before, RECORDS_AT_ONCE).await {
            Ok(count) => {
                (moved, attempt) = (moved + count, 1);
                if count < u64::from(RECORDS_AT_ONCE) {
                    return Ok(moved);
                }
            }
            Err(StoreError::Conflict(_)) if attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
        }
        tokio::time::sleep(begun.elapsed().min(LONGEST_REST)).await;
    }
}
