//! The job that seals closed months.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{Datelike, TimeDelta};

use super::{
    content::{Content, HistoryRow, Kind},
    history,
    proof::lacking_seals,
    store::{Changed, NewSeal, SealStore, Sealed, Since, USERS_AT_ONCE, hash},
};
use crate::biz::{
    events::closing::last_to_close,
    jobs::{
        audit::{
            MAX_REPORTED,
            charges::compare_unrecorded,
            differences::{Difference, Owner},
            pieces::{Sources, groups},
            unsealed,
            whole::audit_user,
        },
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
    /// Accounts that differ from their history or their seals, and stay unsealed. The run names each.
    pub left: u64,
    /// Accounts that lacked seals of months that were sealed for all before: their seals were deleted, or they had
    /// been left. The run names each, and seals it.
    pub lacking: u64,
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
    sources: Sources<'_>,
    is_dry_run: bool,
    progress: &dyn Progress,
) -> Result<SealedMonths, StoreError> {
    let Sources { store, calendar, .. } = sources;
    let month = last_to_seal(calendar);
    let mut scan = ScanPosition::<4>::of(progress);
    let number = u64::from(month.first_day().num_days_from_ce().unsigned_abs());
    if scan.counts[3] != number {
        // A run for another month has left other accounts unsealed.
        scan = ScanPosition { counts: [0, 0, 0, number], last: None };
    }
    progress.expect(store.users_behind(scan.last.as_ref()).await?);
    let mut differences = 0;
    // Ends: each span begins behind the last.
    while let Some((span, users)) = repeat(|| store.span(scan.last.as_ref(), USERS_AT_A_TIME)).await? {
        let lost: BTreeMap<UserId, Month> = repeat(|| store.lost_seals(&span)).await?.into_iter().collect();
        let mut changed = repeat(|| store.changed_accounts(&span)).await?;
        changed.retain(|account| account.sealed.as_ref().is_none_or(|sealed| sealed.month < month));
        changed.retain(|account| !lost.contains_key(&account.user));
        let mut seals = sealed(store, calendar, month, &changed).await?;
        // The others have nothing to seal, however often they change in the open month. The nightly audit reads them.
        let with_rows: BTreeSet<UserId> = seals.iter().map(|seal| seal.user.clone()).collect();
        changed.retain(|account| with_rows.contains(&account.user));
        let mut note = |difference: Difference| {
            differences += 1;
            if differences <= MAX_REPORTED {
                progress.report(&difference.to_string());
            }
        };
        lost.iter().map(|(user, month)| lost_seal(user, *month)).for_each(&mut note);
        let mut left = differing(sources, &changed, &mut note).await?;
        left.extend(lost.into_keys());
        left.extend(unrecorded(sources, &changed).await?);
        changed.retain(|account| !left.contains(&account.user));
        let lacking = lacking(sources, &changed).await?;
        seals.retain(|seal| !left.contains(&seal.user));
        if !is_dry_run {
            for some in seals.chunks(SEALS_AT_ONCE) {
                left.extend(write(store, some, calendar).await?);
            }
        }
        seals.retain(|seal| !left.contains(&seal.user));
        scan.counts[0] += seals.len() as u64;
        for user in &left {
            scan.counts[1] += 1;
            if scan.counts[1] <= MAX_REPORTED {
                progress.report(&format!("user {user}: has differences; not sealed"));
            }
        }
        let end = if is_dry_run { "would be sealed anew" } else { "sealed anew" };
        for (user, should_be) in lacking.iter().filter(|(user, _)| !left.contains(user)) {
            scan.counts[2] += 1;
            if scan.counts[2] <= MAX_REPORTED {
                progress.report(&format!(
                    "user {user}: lacked seals up to {should_be}: they were deleted, or an earlier run left it; {end}"
                ));
            }
        }
        scan.last = Some(span.last);
        progress.reached(&scan.to_string(), users).await?;
    }
    if !is_dry_run && repeat(|| store.all_sealed_up_to()).await?.is_none_or(|noted| noted < month) {
        repeat(|| store.note_all_sealed(month)).await?;
    }
    let [accounts, left, lacking, _] = scan.counts;
    Ok(SealedMonths { accounts, left, lacking, month })
}

/// The difference of an account whose last seal, of `month`, is gone.
fn lost_seal(user: &UserId, month: Month) -> Difference {
    let book = format!("seal of {month}");
    Difference { owner: Owner::User(user.clone()), book, says: "none".into(), should_be: "one".into() }
}

/// The accounts that differ. An account that the nightly audit suspects is audited whole, with a call of `note` for each
/// difference.
async fn differing(
    sources: Sources<'_>,
    accounts: &[Changed],
    note: &mut (dyn FnMut(Difference) + Send),
) -> Result<BTreeSet<UserId>, StoreError> {
    let mut left = BTreeSet::new();
    for suspect in unsealed::differing(sources, accounts).await? {
        let mut differs = false;
        let mut noted = |difference| {
            differs = true;
            note(difference);
        };
        audit_user(sources, &suspect, &mut noted).await?;
        if differs {
            left.insert(suspect);
        }
    }
    Ok(left)
}

/// The accounts with a transaction without records since their last seals. A record leads to its transaction, which
/// the audit has compared. No record leads to these, and the digests do not have them.
async fn unrecorded(sources: Sources<'_>, accounts: &[Changed]) -> Result<BTreeSet<UserId>, StoreError> {
    let mut found = BTreeSet::new();
    for (since, accounts) in Changed::by_begin(accounts) {
        let users: Vec<UserId> = accounts.iter().map(|account| account.user.clone()).collect();
        // By the whole history, because the transactions have no index by time.
        for group in groups(sources, &users, Since::BEGINNING).await? {
            let mut note = |user, _| {
                found.insert(user);
            };
            compare_unrecorded(sources, &group, since, &mut note).await?;
        }
    }
    Ok(found)
}

/// The accounts that lack seals of months that were sealed for all, each with the last of these months.
async fn lacking(sources: Sources<'_>, accounts: &[Changed]) -> Result<Vec<(UserId, String)>, StoreError> {
    let mut found = Vec::new();
    for some in accounts.chunks(USERS_AT_ONCE) {
        let users: Vec<UserId> = some.iter().map(|account| account.user.clone()).collect();
        let lacking = lacking_seals(sources.store, sources.calendar, &users).await?;
        found.extend(lacking.into_iter().filter_map(|difference| match difference.owner {
            Owner::User(user) => Some((user, difference.should_be)),
            Owner::ApiKey(_) => None,
        }));
    }
    Ok(found)
}

/// Writes seals. Returns the users who have another seal of the month.
async fn write(store: &dyn SealStore, seals: &[NewSeal], calendar: &Calendar) -> Result<Vec<UserId>, StoreError> {
    repeat(|| write_once(store, seals, calendar)).await
}

async fn write_once(store: &dyn SealStore, seals: &[NewSeal], calendar: &Calendar) -> Result<Vec<UserId>, StoreError> {
    let at = calendar.now().utc;
    let error = match store.seal(seals.to_vec(), at).await {
        Ok(()) => return Ok(Vec::new()),
        Err(error) => error,
    };
    // The seals were written and the answer was lost, or another process has written some of them.
    let users: Vec<UserId> = seals.iter().map(|seal| seal.user.clone()).collect();
    let (stored, _) = store.seals(&users).await?;
    let stored: BTreeMap<(UserId, Month), String> =
        stored.into_iter().map(|stored| ((stored.user, stored.month), stored.seal)).collect();
    let known = |seal: &NewSeal| stored.get(&(seal.user.clone(), seal.sealed.month));
    let missing: Vec<NewSeal> = seals.iter().filter(|seal| known(seal).is_none()).cloned().collect();
    if missing.len() == seals.len() {
        return Err(error);
    }
    if !missing.is_empty() {
        store.seal(missing, at).await?;
    }
    let others = seals.iter().filter(|seal| known(seal).is_some_and(|stored| *stored != seal.sealed.seal));
    Ok(others.map(|seal| seal.user.clone()).collect())
}

/// The new seals of some accounts. An account without history since its last seal gets none.
async fn sealed(
    store: &dyn SealStore,
    calendar: &Calendar,
    month: Month,
    accounts: &[Changed],
) -> Result<Vec<NewSeal>, StoreError> {
    let until = Since::end_of(month, calendar);
    let mut seals = Vec::new();
    for (since, accounts) in Changed::by_begin(accounts) {
        let span = (since.at, until.at);
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
