//! The job that seals closed months.

use std::collections::BTreeMap;

use chrono::TimeDelta;

use super::{
    content::{Content, HistoryRow, Kind},
    history,
    store::{Changed, NewSeal, SealStore, Sealed, Since, USERS_AT_ONCE, hash},
};
use crate::biz::{
    events::closing::last_to_close,
    jobs::{
        audit::unsealed::differing,
        progress::{Progress, ScanPosition},
        retry::repeat,
    },
    values::{
        calendar::{Calendar, Month},
        error::StoreError,
        ids::UserId,
    },
};

/// Users between two checkpoints.
const USERS_AT_A_TIME: u32 = 5_000;
/// Seals that one transaction writes.
const SEALS_AT_ONCE: usize = 200;
/// A month is sealed so long after it has closed. A settlement that was decided before the close is committed by
/// then.
const AFTER_CLOSE: TimeDelta = TimeDelta::hours(24);

/// The result of a run. The counts include the interrupted run from which this one resumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedMonths {
    pub accounts: u64,
    /// Accounts that differ from their history, and stay unsealed.
    pub left: u64,
    /// The last sealed month.
    pub month: Month,
}

/// The last month that may be sealed.
pub fn last_to_seal(calendar: &Calendar) -> Month {
    last_to_close(calendar, calendar.at(calendar.now().utc - AFTER_CLOSE))
}

/// Seals the history of every account up to the last closed month. Resumes from the checkpoint of `progress`. A run
/// that is killed leaves whole seals, and the next run goes on behind them.
///
/// # Errors
/// [`StoreError::Unavailable`], also if the lease of the run is lost; [`StoreError::Failed`].
pub async fn seal_months(
    store: &dyn SealStore,
    calendar: &Calendar,
    is_dry_run: bool,
    progress: &dyn Progress,
) -> Result<SealedMonths, StoreError> {
    let month = last_to_seal(calendar);
    let mut scan = ScanPosition::<2>::of(progress);
    progress.expect(store.users_behind(scan.last.as_ref()).await?);
    // Ends: each span begins behind the last.
    while let Some((span, users)) = repeat(|| store.span(scan.last.as_ref(), USERS_AT_A_TIME)).await? {
        let mut changed = repeat(|| store.changed_accounts(&span)).await?;
        changed.retain(|account| account.sealed.as_ref().is_none_or(|sealed| sealed.month < month));
        let left = differing(store, &changed).await?;
        scan.counts[1] += left.len() as u64;
        changed.retain(|account| !left.contains(&account.user));
        let seals = sealed(store, calendar, month, &changed).await?;
        scan.counts[0] += seals.len() as u64;
        if !is_dry_run {
            for some in seals.chunks(SEALS_AT_ONCE) {
                write(store, some, calendar).await?;
            }
        }
        scan.last = Some(span.last);
        progress.reached(&scan.to_string(), users).await?;
    }
    let [accounts, left] = scan.counts;
    Ok(SealedMonths { accounts, left, month })
}

async fn write(store: &dyn SealStore, seals: &[NewSeal], calendar: &Calendar) -> Result<(), StoreError> {
    repeat(|| store.seal(seals.to_vec(), calendar.now().utc)).await
}

/// The new seals of some accounts. An account without history since its last seal gets none.
async fn sealed(
    store: &dyn SealStore,
    calendar: &Calendar,
    month: Month,
    accounts: &[Changed],
) -> Result<Vec<NewSeal>, StoreError> {
    let until = Since::end_of(month, calendar);
    let mut by_month: BTreeMap<Option<Since>, Vec<&Changed>> = BTreeMap::new();
    for account in accounts {
        by_month.entry(account.sealed.as_ref().map(|sealed| sealed.since)).or_default().push(account);
    }
    let mut seals = Vec::new();
    for (since, accounts) in by_month {
        let span = (since.unwrap_or(Since::BEGINNING).at, until.at);
        for some in accounts.chunks(USERS_AT_ONCE) {
            let users: Vec<UserId> = some.iter().map(|account| account.user.clone()).collect();
            let figures = |account: &&Changed| account.sealed.as_ref().map(|sealed| sealed.figures).unwrap_or_default();
            let mut contents: Vec<Content> = some.iter().map(|account| Content::behind(figures(account))).collect();
            for kind in Kind::ALL {
                let mut note = |row| add(&users, &mut contents, kind, &row);
                history::read(store, kind, &users, span, &mut note).await?;
            }
            let with_rows = some.iter().zip(contents).filter(|(_, content)| !content.is_empty());
            seals.extend(with_rows.map(|(account, content)| new_seal(account, (month, until), &content)));
        }
    }
    Ok(seals)
}

fn add(users: &[UserId], contents: &mut [Content], kind: Kind, row: &HistoryRow) {
    if let Ok(index) = users.binary_search(&row.user) {
        contents[index].add(kind, row);
    }
}

fn new_seal(account: &Changed, (month, since): (Month, Since), content: &Content) -> NewSeal {
    let before = account.sealed.as_ref().map_or("", |sealed| sealed.seal.as_str());
    let seal = hash(before, &account.user, month, content);
    NewSeal {
        user: account.user.clone(),
        sealed: Sealed { month, since, version: account.version, figures: content.figures, seal },
        content: content.stored(),
    }
}
