//! Retention: records older than `billing.record_months` move to an archive, each with the content of its transaction.
//! All reads still find them there. The tables that every charge writes stay small.
//!
//! The row of a transaction stays under its id, and becomes narrow. It makes the id unique for ever, and has the
//! refunds. Only the content of a transaction that no commit changes any more moves, with its main record: PENDING,
//! RELEASED and EXPIRED reservations stay, and so does a charge of reported usage until a commit has added to it.

use std::{num::NonZeroU32, ops::AddAssign};

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
/// Records that move in one transaction. Their transactions hold the only writer of SQLite for some 20 ms, and four times
/// as many for 78 ms. On MySQL a replay or a refund of one of them waits as long as all.
const RECORDS_AT_ONCE: u32 = 250;

/// The moved rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moved {
    pub records: u64,
    pub transactions: u64,
    /// Final transactions that stay, because the archive has content with their key already. Something else has
    /// written one of the two, and it is not known which is right.
    pub contested: u64,
}

impl AddAssign for Moved {
    fn add_assign(&mut self, more: Self) {
        self.records += more.records;
        self.transactions += more.transactions;
        self.contested += more.contested;
    }
}

/// A page of archived records whose transactions have moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftPage {
    pub moved: Moved,
    /// Time and id of the last record; `None` if it was the last one of all.
    pub last: Option<(DateTime<Utc>, String)>,
}

/// Archives old records. Its queries read no newer records, so their cost depends on the old ones
/// only.
#[async_trait]
pub trait RecordArchive: Users {
    /// The users of a span with records older than `before`, in key order.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn users_with_old(&self, users: &UserSpan, before: DateTime<Utc>) -> Result<Vec<UserId>, StoreError>;

    /// Moves at most `limit` records older than `before` of `users` with the final transactions of which they are the
    /// main record, in one transaction. Fewer records than `limit` mean that none remain.
    ///
    /// # Errors
    /// [`StoreError::Conflict`]: nothing was moved; [`StoreError::Unavailable`],
    /// [`StoreError::Failed`].
    async fn archive(&self, users: &[UserId], before: DateTime<Utc>, limit: u32) -> Result<Moved, StoreError>;

    /// The rows of `users` that [`Self::archive`] would move in all.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn count_old(&self, users: &[UserId], before: DateTime<Utc>) -> Result<Moved, StoreError>;

    /// Whether transactions may be left whose records an earlier release has moved alone.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn may_have_left(&self) -> Result<bool, StoreError>;

    /// The users of a span with archived records, in key order.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn users_with_archived(&self, users: &UserSpan) -> Result<Vec<UserId>, StoreError>;

    /// Moves the final transactions of at most `limit` archived records of a user behind `after`, in one transaction.
    ///
    /// # Errors
    /// As [`Self::archive`].
    async fn archive_left(
        &self,
        user: &UserId,
        after: Option<&(DateTime<Utc>, String)>,
        limit: u32,
    ) -> Result<LeftPage, StoreError>;

    /// The rows of a user that [`Self::archive_left`] would move in all.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn count_left(&self, user: &UserId) -> Result<Moved, StoreError>;

    /// Notes that no transaction is left, so that [`Self::may_have_left`] is false from now on.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn note_none_left(&self, at: DateTime<Utc>) -> Result<(), StoreError>;
}

/// The result of a run or a dry run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Archived {
    /// Moved rows, including those of the interrupted run from which this one resumes.
    pub moved: Moved,
    /// The first month whose records stay.
    pub first_kept: Month,
}

/// Moves the records from before this month and the last `months` months. Resumes from the
/// checkpoint of `progress`. The first run of this release also moves the transactions of records that are archived
/// already.
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
    let now = calendar.now();
    let first_kept = (0..months.get()).fold(now.month, |month, _| month.previous());
    let before = calendar.start_of(first_kept.first_day());
    let may_have_left = repeat(|| store.may_have_left()).await?;
    let mut scan = ScanPosition::<3>::of(progress);
    let [records, transactions, contested] = scan.counts;
    let mut sum = Moved { records, transactions, contested };
    progress.expect(store.users_behind(scan.last.as_ref()).await?);
    // Ends: each span begins behind the last.
    while let Some((span, users)) = repeat(|| store.span(scan.last.as_ref(), USERS_AT_ONCE)).await? {
        if may_have_left {
            for user in repeat(|| store.users_with_archived(&span)).await? {
                sum += match is_dry_run {
                    true => repeat(|| store.count_left(&user)).await?,
                    false => move_left(store, &user).await?,
                };
            }
        }
        for some in repeat(|| store.users_with_old(&span, before)).await?.chunks(MOVED_TOGETHER) {
            sum += match is_dry_run {
                true => repeat(|| store.count_old(some, before)).await?,
                false => move_all(store, some, before).await?,
            };
        }
        scan.counts = [sum.records, sum.transactions, sum.contested];
        scan.last = Some(span.last);
        progress.reached(&scan.to_string(), users).await?;
    }
    if may_have_left && !is_dry_run {
        repeat(|| store.note_none_left(now.utc)).await?;
    }
    Ok(Archived { moved: sum, first_kept })
}

/// Moves the old records of some users.
async fn move_all(
    store: &(impl RecordArchive + ?Sized),
    users: &[UserId],
    before: DateTime<Utc>,
) -> Result<Moved, StoreError> {
    let mut sum = Moved::default();
    loop {
        let moved = repeat(|| store.archive(users, before, RECORDS_AT_ONCE)).await?;
        sum += moved;
        if moved.records < u64::from(RECORDS_AT_ONCE) {
            return Ok(sum);
        }
    }
}

/// Moves the transactions of a user's archived records.
async fn move_left(store: &(impl RecordArchive + ?Sized), user: &UserId) -> Result<Moved, StoreError> {
    let (mut sum, mut after) = (Moved::default(), None);
    // Ends: each page begins behind the last.
    loop {
        let page = repeat(|| store.archive_left(user, after.as_ref(), RECORDS_AT_ONCE)).await?;
        sum += page.moved;
        if page.last.is_none() {
            return Ok(sum);
        }
        after = page.last;
    }
}
