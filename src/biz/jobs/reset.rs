//! Opens months ahead of the first call: writes the quota rows of every user and service for this
//! month and the next. The job is an optimization. The first call of a month creates missing rows,
//! and without the job all users would create theirs in the first minutes of a month.

use async_trait::async_trait;

use super::progress::{Progress, ScanPosition};
use crate::biz::{
    account::{
        catalog::{Catalog, ServiceTerms},
        users::{UserSpan, Users},
    },
    jobs::retry::repeat,
    values::{
        calendar::{BillingTime, Calendar, Month},
        error::StoreError,
        ids::{PlanName, ServiceName},
    },
};

/// Users whose rows are written in one transaction.
const CHUNK: u32 = 1_000;
/// Most users that are reported by name if their rows can't be written.
const MAX_NAMED: u64 = 10;

/// Reads and writes quota rows.
#[async_trait]
pub trait QuotaRows: Users {
    /// Creates the missing rows of the [`opened`] months for the users of a span, in one
    /// transaction. Rows of the current month stay as they are. Rows of the next month get the
    /// configured quota.
    ///
    /// # Errors
    /// [`StoreError::Conflict`]: nothing was written. [`StoreError::Unavailable`]: the outcome is
    /// unknown; a repeat is safe. [`StoreError::Failed`].
    async fn open_months(&self, users: &UserSpan, quotas: &[FreeUnits], at: BillingTime) -> Result<(), StoreError>;

    /// Counts the rows of one month and service that a reset would write for the users of a span.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn lacking(&self, users: &UserSpan, month: Month, quota: &FreeUnits) -> Result<Lacking, StoreError>;
}

/// The free units of one service in a month.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FreeUnits {
    pub service: ServiceName,
    pub units: u64,
    /// The units of the plans that differ.
    pub in_plans: Vec<(PlanName, u64)>,
}

impl FreeUnits {
    /// Those of all services.
    pub fn of(catalog: &Catalog) -> Vec<Self> {
        let of_service = |(service, terms): (&ServiceName, ServiceTerms)| {
            let in_plan = |plan| Some((plan, catalog.service_in(Some(plan), service)?.free_quota));
            let in_plans = catalog.plans().filter_map(in_plan).filter(|(_, units)| *units != terms.free_quota);
            Self { service: service.clone(), units: terms.free_quota, in_plans: in_plans.collect() }
        };
        catalog.iter().map(of_service).collect()
    }
}

/// The months that are opened: this one and the next.
pub fn opened(at: BillingTime) -> [Month; 2] {
    [at.month, at.month.next()]
}

/// The result of a reset. It includes the interrupted run from which this one resumes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Reset {
    /// Users who have all rows.
    pub users: u64,
    /// Users whose rows could not be written; the first [`MAX_NAMED`] are reported by name. Their
    /// first call creates the missing rows.
    pub failed: u64,
}

/// Opens the months of all users. Resumes from the checkpoint of `progress`. A failure for one user
/// or service does not affect the others.
///
/// # Errors
/// [`StoreError::Unavailable`]: the database is unavailable, the lease of the run is lost, or the
/// month turned during the run. Written rows stay.
pub async fn reset_quotas(
    rows: &dyn QuotaRows,
    catalog: &Catalog,
    calendar: &Calendar,
    progress: &dyn Progress,
) -> Result<Reset, StoreError> {
    let at = calendar.now();
    let quotas = FreeUnits::of(catalog);
    let ScanPosition { counts: [users, failed], last: mut after } = scan_position(progress, at.month);
    let mut reset = Reset { users, failed };
    progress.expect(rows.users_behind(after.as_ref()).await?);
    // Ends: each chunk begins behind the last.
    while let Some((span, users)) = repeat(|| rows.span(after.as_ref(), CHUNK)).await? {
        if calendar.now().month != at.month {
            return Err(StoreError::Unavailable("the month has turned; another run opens the next ones".into()));
        }
        match repeat(|| rows.open_months(&span, &quotas, at)).await {
            Ok(()) => reset.users += users,
            Err(error @ StoreError::Unavailable(_)) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "months of a chunk of users not opened; opening them user by user");
                one_by_one(rows, &span, &quotas, at, &mut reset, progress).await?;
            }
        }
        after = Some(span.last);
        let scan = ScanPosition { counts: [reset.users, reset.failed], last: after.clone() };
        progress.reached(&format!("{} {scan}", at.month), users).await?;
    }
    Ok(reset)
}

/// The checkpoint of a reset, written `2026-11 1000 0 user`: the month, the users with all rows, the
/// failed users, and the last user. A checkpoint of another month does not count.
fn scan_position(progress: &dyn Progress, month: Month) -> ScanPosition<2> {
    let position = progress.position();
    let of_month = position.as_deref().and_then(|position| position.split_once(' '));
    let this_month = of_month.filter(|(of, _)| *of == month.to_string());
    this_month.and_then(|(_, position)| ScanPosition::read(position)).unwrap_or_else(ScanPosition::begin)
}

/// The rows of one month and service that a reset would write.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Lacking {
    /// Missing rows.
    pub rows: u64,
    /// Unused rows whose total differs from the configured quota.
    pub totals: u64,
}

/// The preview of a reset.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct ResetPreview {
    pub users: u64,
    /// The rows to write, by month and service.
    pub lacking: Vec<(Month, ServiceName, Lacking)>,
}

/// Counts the rows that [`reset_quotas`] would write now. Only reads.
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
    let quotas = FreeUnits::of(catalog);
    let each = opened(at).into_iter().flat_map(|month| quotas.iter().map(move |quota| (month, quota)));
    let each: Vec<(Month, &FreeUnits)> = each.collect();
    let lacking = each.iter().map(|(month, quota)| (*month, quota.service.clone(), Lacking::default()));
    let mut preview = ResetPreview { users: 0, lacking: lacking.collect() };
    let mut after = None;
    progress.expect(rows.users_behind(None).await?);
    // Ends: each chunk begins behind the last.
    while let Some((span, users)) = repeat(|| rows.span(after.as_ref(), CHUNK)).await? {
        for ((month, quota), (_, _, sum)) in each.iter().zip(&mut preview.lacking) {
            let lacking = repeat(|| rows.lacking(&span, *month, quota)).await?;
            sum.rows += lacking.rows;
            // The reset does not change totals of the current month.
            sum.totals += if *month > at.month { lacking.totals } else { 0 };
        }
        preview.users += users;
        progress.reached(span.last.as_str(), users).await?;
        after = Some(span.last);
    }
    Ok(preview)
}

/// Opens the months of a span for each user and service in a transaction of its own, so that one
/// failure does not affect the others.
async fn one_by_one(
    rows: &dyn QuotaRows,
    span: &UserSpan,
    quotas: &[FreeUnits],
    at: BillingTime,
    reset: &mut Reset,
    progress: &dyn Progress,
) -> Result<(), StoreError> {
    let mut after = span.after.clone();
    while let Some((alone, _)) = repeat(|| rows.span(after.as_ref(), 1)).await? {
        if alone.last.as_str() > span.last.as_str() {
            return Ok(());
        }
        let mut failed = None;
        for quota in quotas {
            match repeat(|| rows.open_months(&alone, std::slice::from_ref(quota), at)).await {
                Ok(()) => {}
                Err(error @ StoreError::Unavailable(_)) => return Err(error),
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            None => reset.users += 1,
            Some(error) => {
                tracing::error!(%error, "months of a user not opened; the first call opens them");
                reset.failed += 1;
                if reset.failed <= MAX_NAMED {
                    progress.report(&format!("user {} was left out", alone.last));
                }
            }
        }
        after = Some(alone.last);
    }
    Ok(())
}
