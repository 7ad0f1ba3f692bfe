//! The nightly audit: compares the history since the last seal of each account.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    books::compare,
    whole::{AuditReport, Findings, audit_user},
};
use crate::biz::{
    jobs::{
        progress::Progress,
        retry::repeat,
        seals::store::{Changed, SealStore, Since, USERS_AT_ONCE},
    },
    values::{calendar::Calendar, error::StoreError, ids::UserId},
};

/// Users between two checkpoints. Most of them have not changed since their seals.
const USERS_AT_A_TIME: u32 = 5_000;
/// Reads that run at once, each in a snapshot of its own.
const READS_AT_ONCE: usize = 2;

/// Audits the users with an account from their last seals on, and reports each difference at once. Resumes from
/// the checkpoint of `progress`.
///
/// # Errors
/// [`StoreError::Unavailable`], also if the lease of the run is lost; [`StoreError::Failed`].
pub async fn audit_unsealed(
    store: &dyn SealStore,
    calendar: &Calendar,
    progress: &dyn Progress,
) -> Result<AuditReport, StoreError> {
    let mut findings = Findings::begin(store, progress).await?;
    let mut suspects = 0;
    // Ends, because each span begins after the last one.
    while let Some((span, users)) = repeat(|| store.span(findings.scan.last.as_ref(), USERS_AT_A_TIME)).await? {
        let changed = repeat(|| store.changed_accounts(&span)).await?;
        for suspect in differing(store, &changed).await? {
            suspects += 1;
            audit_user(store, calendar, &suspect, &mut findings).await?;
        }
        findings.reached(span.last, users).await?;
    }
    Ok(findings.report(suspects))
}

/// The users whose account does not follow from their last seal and their unsealed history.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Failed`].
pub(in crate::biz::jobs) async fn differing(
    store: &dyn SealStore,
    changed: &[Changed],
) -> Result<BTreeSet<UserId>, StoreError> {
    let mut suspects = BTreeSet::new();
    // Nearly all accounts have the same last month.
    let mut by_month: BTreeMap<Option<Since>, Vec<&Changed>> = BTreeMap::new();
    for account in changed {
        by_month.entry(account.sealed.as_ref().map(|sealed| sealed.since)).or_default().push(account);
    }
    for (since, accounts) in by_month {
        let since = since.unwrap_or(Since::BEGINNING);
        let together = accounts.len().div_ceil(READS_AT_ONCE).clamp(1, USERS_AT_ONCE);
        let reads: Vec<_> = accounts.chunks(together).map(|some| differing_since(store, some, since)).collect();
        let mut reads = stream::iter(reads).buffer_unordered(READS_AT_ONCE);
        while let Some(found) = reads.try_next().await? {
            suspects.extend(found);
        }
    }
    Ok(suspects)
}

/// As [`differing`], for accounts with the same last month.
async fn differing_since(
    store: &dyn SealStore,
    accounts: &[&Changed],
    since: Since,
) -> Result<BTreeSet<UserId>, StoreError> {
    let users: Vec<UserId> = accounts.iter().map(|account| account.user.clone()).collect();
    let unsealed = repeat(|| store.unsealed(&users, since)).await?;
    let mut suspects = BTreeSet::from_iter(unsealed.differing);
    let sealed: BTreeMap<&UserId, &Changed> = accounts.iter().map(|account| (&account.user, *account)).collect();
    for mut evidence in unsealed.evidence {
        if let Some(last) = sealed.get(&evidence.user).and_then(|account| account.sealed.as_ref()) {
            last.figures.add_to(&mut evidence);
        }
        if !compare(&evidence).is_empty() {
            suspects.insert(evidence.user);
        }
    }
    Ok(suspects)
}
