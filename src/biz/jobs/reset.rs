//! Opens months ahead of the first call: quota rows of every known user and service, for
//! this month and the next. Nothing depends on it, because the first call opens what it
//! lacks; but then the first minute of a month is as quiet as any other.

use async_trait::async_trait;

use super::progress::{Progress, ScanPosition};
use crate::biz::{
    account::{
        catalog::{Catalog, Plan},
        users::{UserSpan, Users},
    },
    jobs::retry::unless_conflict,
    values::{
        calendar::{BillingTime, Calendar, Month},
        error::StoreError,
        ids::ServiceName,
    },
};

/// Users whose rows are written in one transaction.
const CHUNK: u32 = 1_000;
/// Users that are named when their rows can't be written.
const MAX_NAMED: u64 = 10;

/// Where quota rows are kept.
#[async_trait]
pub trait QuotaRows: Users {
    /// Writes the rows of [`opened`] months that the users of a span lack, in one
    /// transaction. Rows that are there stay, but for those of months to come: they get the
    /// quota that is configured now.
    ///
    /// # Errors
    /// [`StoreError::Conflict`]: nothing was written; [`StoreError::Unavailable`]: write
    /// again to learn it; [`StoreError::Failed`].
    async fn open_months(
        &self,
        users: &UserSpan,
        plans: &[(&ServiceName, Plan)],
        at: BillingTime,
    ) -> Result<(), StoreError>;

    /// What the users of a span lack in one month of one service.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn lacking(&self, users: &UserSpan, month: Month, plan: (&ServiceName, Plan)) -> Result<Lacking, StoreError>;
}

/// The months that are opened: this one and the next.
pub fn opened(at: BillingTime) -> [Month; 2] {
    [at.month, at.month.next()]
}

/// What a reset did, the runs included that this one goes on from.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Reset {
    /// Users whose rows are there.
    pub users: u64,
    /// Users who were left out, the first of whom were named. Their first call opens what
    /// they lack.
    pub failed: u64,
}

/// Opens the months of all users, from where `progress` says that it got to. What can't be
/// written of one user or service does not keep the others from it.
///
/// # Errors
/// [`StoreError::Unavailable`] when the database does not answer, the lease of the run is
/// lost, or the month turns; what was opened stays so.
pub async fn reset_quotas(
    rows: &dyn QuotaRows,
    catalog: &Catalog,
    calendar: &Calendar,
    progress: &dyn Progress,
) -> Result<Reset, StoreError> {
    let at = calendar.now();
    let plans: Vec<(&ServiceName, Plan)> = catalog.iter().collect();
    let ScanPosition { counts: [users, failed], last: mut after } = scan_position(progress, at.month);
    let mut reset = Reset { users, failed };
    progress.expect(rows.users_behind(after.as_ref()).await?);
    // Ends: each chunk begins behind the last.
    while let Some((span, users)) = rows.span(after.as_ref(), CHUNK).await? {
        if calendar.now().month != at.month {
            return Err(StoreError::Unavailable("the month has turned; another run opens the next ones".into()));
        }
        match unless_conflict(|| rows.open_months(&span, &plans, at)).await {
            Ok(()) => reset.users += users,
            Err(error @ StoreError::Unavailable(_)) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "months are opened user by user");
                one_by_one(rows, &span, &plans, at, &mut reset, progress).await?;
            }
        }
        after = Some(span.last);
        let scan = ScanPosition { counts: [reset.users, reset.failed], last: after.clone() };
        progress.reached(&format!("{} {scan}", at.month), users).await?;
    }
    Ok(reset)
}

/// Where a reset of this month got to, written `2026-11 1000 0 user`: before users open, users
/// failed and the last user stands the month. What is of another month begins anew.
fn scan_position(progress: &dyn Progress, month: Month) -> ScanPosition<2> {
    let position = progress.position();
    let of_month = position.as_deref().and_then(|position| position.split_once(' '));
    let this_month = of_month.filter(|(of, _)| *of == month.to_string());
    this_month.and_then(|(_, position)| ScanPosition::read(position)).unwrap_or_else(ScanPosition::begin)
}

/// What rows of one month of one service are not as a reset would leave them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Lacking {
    /// Rows that are not there.
    pub rows: u64,
    /// Unused rows whose total is not the quota that is configured.
    pub totals: u64,
}

/// What a reset would do.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct ResetPreview {
    pub users: u64,
    /// Of each month and service.
    pub lacking: Vec<(Month, ServiceName, Lacking)>,
}

/// What [`reset_quotas`] would do now. Only reads.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Failed`].
pub async fn preview(
    rows: &dyn QuotaRows,
    catalog: &Catalog,
    calendar: &Calendar,
    progress: &dyn Progress,
) -> Result<ResetPreview, StoreError> {
    let at = calendar.now();
    let each = opened(at).into_iter().flat_map(|month| catalog.iter().map(move |plan| (month, plan)));
    let each: Vec<(Month, (&ServiceName, Plan))> = each.collect();
    let lacking = each.iter().map(|(month, (service, _))| (*month, (*service).clone(), Lacking::default()));
    let mut preview = ResetPreview { users: 0, lacking: lacking.collect() };
    let mut after = None;
    progress.expect(rows.users_behind(None).await?);
    // Ends: each chunk begins behind the last.
    while let Some((span, users)) = rows.span(after.as_ref(), CHUNK).await? {
        for ((month, plan), (_, _, sum)) in each.iter().zip(&mut preview.lacking) {
            let lacking = rows.lacking(&span, *month, *plan).await?;
            sum.rows += lacking.rows;
            // The total of a month that has begun stays.
            sum.totals += if *month > at.month { lacking.totals } else { 0 };
        }
        preview.users += users;
        progress.reached(span.last.as_str(), users).await?;
        after = Some(span.last);
    }
    Ok(preview)
}

/// Each user of a span, and each service of a user, for itself.
async fn one_by_one(
    rows: &dyn QuotaRows,
    span: &UserSpan,
    plans: &[(&ServiceName, Plan)],
    at: BillingTime,
    reset: &mut Reset,
    progress: &dyn Progress,
) -> Result<(), StoreError> {
    let mut after = span.after.clone();
    while let Some((alone, _)) = rows.span(after.as_ref(), 1).await? {
        if alone.last.as_str() > span.last.as_str() {
            return Ok(());
        }
        let mut failed = None;
        for plan in plans {
            match unless_conflict(|| rows.open_months(&alone, std::slice::from_ref(plan), at)).await {
                Ok(()) => {}
                Err(error @ StoreError::Unavailable(_)) => return Err(error),
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            None => reset.users += 1,
            Some(error) => {
                tracing::error!(%error, "the months of a user were not opened");
                reset.failed += 1;
                if reset.failed <= MAX_NAMED {
                    progress.tell(&format!("user {} was left out", alone.last));
                }
            }
        }
        after = Some(alone.last);
    }
    Ok(())
}
