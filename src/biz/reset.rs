//! Opens months ahead of the first call: quota rows of every known user and service, for
//! this month and the next. Nothing depends on it, because the first call opens what it
//! lacks; but then the first minute of a month is as quiet as any other.

use async_trait::async_trait;

use super::{
    calendar::{BillingTime, Calendar, Month},
    catalog::{Catalog, Plan},
    error::StoreError,
    ids::{ServiceName, UserId},
    progress::Progress,
};

/// Users whose rows are written in one transaction.
const CHUNK: u32 = 1_000;
/// Users that are named when their rows can't be written.
const MAX_NAMED: usize = 10;

/// Where quota rows are kept.
#[async_trait]
pub trait QuotaRows: Send + Sync + 'static {
    /// The last of so many users behind `after`, or of the first, and how many they are;
    /// `None` behind the last user.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn end_of_chunk(&self, after: Option<&UserId>, count: u32) -> Result<Option<(UserId, u64)>, StoreError>;

    /// Writes the rows that the users of a span lack, in one transaction. Rows that are
    /// there stay, but for those of months to come: they get the quota that is configured
    /// now.
    ///
    /// # Errors
    /// [`StoreError::Conflict`]: nothing was written; [`StoreError::Unavailable`]: write
    /// again to learn it; [`StoreError::Failed`].
    async fn open_months(&self, span: &Span, plans: &[(&ServiceName, Plan)], at: BillingTime)
    -> Result<(), StoreError>;
}

/// Users behind `after`, up to `last`; their rows of this month and the next.
#[derive(Debug, Clone)]
pub struct Span {
    pub after: Option<UserId>,
    pub last: UserId,
    pub months: [Month; 2],
}

/// What a reset did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Reset {
    /// Users whose rows are there.
    pub users: u64,
    pub failed: u64,
    /// The first of those that failed.
    pub named: Vec<UserId>,
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
    let months = [at.month, at.month.next()];
    let mut reset = Reset::default();
    let mut after = progress.position().map(UserId::from_stored);
    // Ends: each chunk begins behind the last.
    while let Some((last, users)) = rows.end_of_chunk(after.as_ref(), CHUNK).await? {
        if calendar.now().month != at.month {
            return Err(StoreError::Unavailable("the month has turned; another run opens the next ones".into()));
        }
        let span = Span { after: after.clone(), last: last.clone(), months };
        match open(rows, &span, &plans, at).await {
            Ok(()) => reset.users += users,
            Err(error @ StoreError::Unavailable(_)) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "months are opened user by user");
                one_by_one(rows, &span, &plans, at, &mut reset).await?;
            }
        }
        progress.reached(last.as_str(), users).await?;
        after = Some(last);
    }
    Ok(reset)
}

/// Losing a deadlock repeats it this often.
const ATTEMPTS: u32 = 5;

async fn open(
    rows: &dyn QuotaRows,
    span: &Span,
    plans: &[(&ServiceName, Plan)],
    at: BillingTime,
) -> Result<(), StoreError> {
    let mut attempt = 1;
    loop {
        match rows.open_months(span, plans, at).await {
            Err(StoreError::Conflict(_)) if attempt < ATTEMPTS => attempt += 1,
            done => return done,
        }
    }
}

/// Each user of a span, and each service of a user, for itself.
async fn one_by_one(
    rows: &dyn QuotaRows,
    span: &Span,
    plans: &[(&ServiceName, Plan)],
    at: BillingTime,
    reset: &mut Reset,
) -> Result<(), StoreError> {
    let mut after = span.after.clone();
    while let Some((user, _)) = rows.end_of_chunk(after.as_ref(), 1).await? {
        if user.as_str() > span.last.as_str() {
            return Ok(());
        }
        let alone = Span { after: after.clone(), last: user.clone(), months: span.months };
        let mut failed = None;
        for plan in plans {
            match open(rows, &alone, std::slice::from_ref(plan), at).await {
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
                if reset.named.len() < MAX_NAMED {
                    reset.named.push(user.clone());
                }
            }
        }
        after = Some(user);
    }
    Ok(())
}
