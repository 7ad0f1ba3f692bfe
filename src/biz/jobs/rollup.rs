//! Rebuilds the rollups from the records: the daily one that the charges write, and the one by service,
//! model and API key. Statistics, series and record totals read them, and the audit compares them with the
//! records.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::sleep;

use super::progress::{Progress, ScanPosition};
use crate::biz::{
    account::users::UserSpan,
    jobs::{
        retry::repeat,
        use_audit::{UseAudit, ranges},
    },
    reports::usage::{
        UseStore,
        budget::Budget,
        refresh::{End, Refreshed, Walks, discard, refresh},
    },
    values::{
        calendar::{Calendar, DaySpan},
        error::StoreError,
        ids::UserId,
    },
};

/// Users whose rollup is compared in one query.
const USERS_AT_ONCE: u32 = 500;

/// Differing groups of the rollup by service, model and API key that are read at once.
const GROUPS_AT_ONCE: u32 = 1_000;

/// Most passes over the days of a user, while servers change the same days.
const MOST_PASSES: u32 = 200;
const AFTER_CONFLICT: Duration = Duration::from_millis(100);

/// Days of a user on which the rollup by service, model and API key lacks records, or has too many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LackingUse {
    pub user: UserId,
    /// From the first to the last of these days.
    pub span: DaySpan,
    pub days: u64,
}

/// Compares and rebuilds the rollups.
#[async_trait]
pub trait RollupStore: UseStore + UseAudit {
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

    /// The users of a span whose rollup by service, model and API key lacks records or has too many.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn lacking_use(&self, users: &UserSpan) -> Result<Vec<LackingUse>, StoreError>;
}

/// The result of a rebuild. It includes the interrupted run from which this one resumes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Rebuilt {
    pub users: u64,
    /// Users whose rollup differed. A run has rebuilt it; a dry run has not.
    pub differing: u64,
    /// Days of users on which the rollup by service, model and API key lacked records or differed.
    pub use_days: u64,
}

/// Rebuilds the rollups of each user whose rollups differ from the records. Resumes from the
/// checkpoint of `progress`. A dry run only reads.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Failed`]; rebuilt rollups stay.
pub async fn rebuild_rollup(
    store: &(impl RollupStore + ?Sized),
    calendar: &Calendar,
    is_dry_run: bool,
    progress: &dyn Progress,
) -> Result<Rebuilt, StoreError> {
    let mut scan = ScanPosition::<3>::of(progress);
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
        scan.counts[2] += rebuild_use(store, calendar, &span, is_dry_run).await?;
        scan.last = Some(span.last);
        progress.reached(&scan.to_string(), users).await?;
    }
    let [users, differing, use_days] = scan.counts;
    Ok(Rebuilt { users, differing, use_days })
}

/// Sums the days that lack records or differ. Returns their number.
async fn rebuild_use(
    store: &(impl RollupStore + ?Sized),
    calendar: &Calendar,
    users: &UserSpan,
    is_dry_run: bool,
) -> Result<u64, StoreError> {
    let mut wrong = 0;
    for range in ranges(store, users).await? {
        loop {
            let differing = repeat(|| store.differing_use(&range, GROUPS_AT_ONCE)).await?;
            let is_last = differing.len() < GROUPS_AT_ONCE as usize;
            let mut days: Vec<_> = differing.into_iter().map(|(user, differing)| (user, differing.day)).collect();
            days.dedup();
            if is_dry_run {
                wrong += days.len() as u64;
                break;
            }
            for (user, day) in &days {
                repeat(|| discard(store, user, *day)).await?;
            }
            // Ends: discarded days lack records, and no longer differ.
            if is_last {
                break;
            }
        }
    }
    let lacking = repeat(|| store.lacking_use(users)).await?;
    if !is_dry_run {
        let walks = Walks::default();
        for LackingUse { user, span, .. } in &lacking {
            sum_up(store, calendar, user, *span, &walks).await?;
        }
    }
    Ok(wrong + lacking.iter().map(|lacking| lacking.days).sum::<u64>())
}

/// Sums the days of a user, also while servers change the same days.
async fn sum_up(
    store: &(impl RollupStore + ?Sized),
    calendar: &Calendar,
    user: &UserId,
    span: DaySpan,
    walks: &Walks,
) -> Result<(), StoreError> {
    for _ in 0..MOST_PASSES {
        match repeat(|| refresh(store, calendar, user, span, Budget::WITHOUT_END, walks)).await? {
            Refreshed { end: End::Early, .. } => sleep(AFTER_CONFLICT).await,
            Refreshed { end: End::Lacking, missing, .. } => {
                tracing::warn!(missing, "daily rollup counts records that are not found");
                tracing::debug!(%user, "records missing");
                return Ok(());
            }
            Refreshed { end: End::Done, .. } => return Ok(()),
        }
    }
    Err(StoreError::Conflict("servers change the same days".into()))
}
