//! The nightly audit: compares the sums since the last seal of each account, and the records of the days since the
//! last audit.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{Stream, StreamExt, TryStreamExt, future::try_join_all, stream};

use super::{
    books::compare,
    charges::compare_records,
    pieces::{Group, Sources, groups},
    whole::{AuditReport, Findings, audit_user, differences_at},
};
use crate::biz::{
    account::users::UserSpan,
    jobs::{
        progress::Progress,
        retry::repeat,
        runs::StoredRun,
        seals::store::{Changed, END, SealStore, Sealed, Since, Unproven},
        use_audit::{UseRange, ranges_of},
    },
    values::{
        calendar::{Calendar, Month},
        error::StoreError,
        ids::UserId,
    },
};

/// Spans of users that are read at once, each on a connection of its own.
const SPANS_AT_ONCE: usize = 2;
/// The nightly audit reads the records of so long before the last audit again, and of the usual time of a reservation:
/// a record has the time of its reserve, and its commit comes later.
const READ_AGAIN: TimeDelta = TimeDelta::hours(24);

/// The begin of the records that the nightly audit compares one by one, by its `runs` of the schedule: a day and
/// `reservation_ttl` before the last one, at the begin of that day. If that one found a difference, the audit reads all
/// unsealed records, because the account that differed was audited whole, and may differ elsewhere too.
pub fn proven_by(runs: &[StoredRun], reservation_ttl: Duration, calendar: &Calendar) -> Since {
    let finished = runs.iter().filter(|run| run.finished_at.is_some());
    // The period began before the run.
    let begun = finished.filter_map(|run| Some((run.period.parse::<DateTime<Utc>>().ok()?, run)));
    let last = begun.max_by_key(|(begin, _)| *begin);
    let Some((begin, _)) = last.filter(|(_, run)| differences_at(run.position.as_deref()) == Some(0)) else {
        return Since::BEGINNING;
    };
    let again = READ_AGAIN + TimeDelta::from_std(reservation_ttl).unwrap_or_default();
    Since::begin_of(calendar.at(begin - again).day, calendar)
}

/// Audits the users with an account, a seal or a quota of this month from their last seals on, and reports each
/// difference at once. Resumes from the checkpoint of `progress`.
///
/// # Errors
/// [`StoreError::Unavailable`], also if the lease of the run is lost; [`StoreError::Failed`].
pub async fn audit_unsealed(sources: Sources<'_>, progress: &dyn Progress) -> Result<AuditReport, StoreError> {
    let Sources { store, calendar, .. } = sources;
    let month = calendar.now().month;
    let mut findings = Findings::begin(store, progress).await?;
    let mut suspects = 0;
    let mut spans = pin!(spans(sources, findings.scan.last.clone()));
    // Ends: each span begins behind the last.
    loop {
        let some: Vec<(UserSpan, u64)> = spans.by_ref().take(SPANS_AT_ONCE).try_collect().await?;
        if some.is_empty() {
            return Ok(findings.report(suspects));
        }
        // All of them are read before anything else happens: a snapshot that waits meanwhile would keep its connection.
        let found = try_join_all(some.iter().map(|(span, users)| suspects_of(sources, span, *users, month))).await?;
        for ((span, users), found) in some.into_iter().zip(found) {
            for suspect in found {
                suspects += 1;
                audit_user(sources, &suspect, &mut |difference| findings.note(difference)).await?;
            }
            findings.reached(span.last, users).await?;
        }
    }
}

/// The spans of all users behind `after`, with the number of their accounts. The last span has no account, because
/// accounts may be lost behind the last one.
fn spans(sources: Sources<'_>, after: Option<UserId>) -> impl Stream<Item = Result<(UserSpan, u64), StoreError>> + '_ {
    let Sources { store, at_once, .. } = sources;
    stream::try_unfold(Some(after), move |after| async move {
        let Some(after) = after else { return Ok(None) };
        Ok(Some(match repeat(|| store.span(after.as_ref(), at_once.users)).await? {
            Some((span, users)) => {
                let last = span.last.clone();
                ((span, users), Some(Some(last)))
            }
            None => ((UserSpan { after, last: UserId::from_stored(END) }, 0), None),
        }))
    })
}

/// The users of a span with `accounts` accounts that an audit must look at.
async fn suspects_of(
    sources: Sources<'_>,
    span: &UserSpan,
    accounts: u64,
    month: Month,
) -> Result<BTreeSet<UserId>, StoreError> {
    let store = sources.store;
    let changed = repeat(|| store.changed_accounts(span)).await?;
    let unsealed = changed.iter().filter(|account| account.sealed.is_none()).count() as u64;
    let mut suspects = differing(sources, &changed).await?;
    // With more seals than sealed accounts, a seal may have lost its account. The search for it costs far more than the
    // count. An account that was opened since `accounts` were counted, or a seal of this moment, only leads to a search.
    if repeat(|| store.seal_count(span)).await? != accounts.saturating_sub(unsealed) {
        suspects.extend(repeat(|| store.sealed_without_account(span)).await?);
    }
    suspects.extend(repeat(|| store.quota_without_account(span, month)).await?);
    Ok(suspects)
}

/// The users whose account does not follow from their last seal and their unsealed history.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Failed`].
pub(in crate::biz::jobs) async fn differing(
    sources: Sources<'_>,
    changed: &[Changed],
) -> Result<BTreeSet<UserId>, StoreError> {
    let (lost, changed): (Vec<_>, Vec<_>) = changed.iter().partition(|account| account.has_lost_seal);
    let mut suspects: BTreeSet<UserId> = lost.into_iter().map(|account| account.user.clone()).collect();
    for (since, accounts) in Changed::by_begin(changed) {
        let users: Vec<UserId> = accounts.iter().map(|account| account.user.clone()).collect();
        let sealed = accounts.iter().filter_map(|account| Some((&account.user, account.sealed.as_ref()?)));
        let sealed: BTreeMap<&UserId, &Sealed> = sealed.collect();
        let since = Unproven { sums: since, records: since.max(sources.proven) };
        for group in groups(sources, &users, since.records).await? {
            suspects.extend(differing_in(sources, group, &sealed, since).await?);
        }
    }
    Ok(suspects)
}

/// As [`differing`], for a group of accounts with the same last month, and the seals of that month.
async fn differing_in(
    sources: Sources<'_>,
    group: Group,
    sealed: &BTreeMap<&UserId, &Sealed>,
    since: Unproven,
) -> Result<BTreeSet<UserId>, StoreError> {
    let store = sources.store;
    let unsealed = repeat(|| store.unsealed(&group.users, since)).await?;
    let mut suspects = BTreeSet::from_iter(unsealed.differing);
    for mut evidence in unsealed.evidence {
        if let Some(last) = sealed.get(&evidence.user) {
            last.figures.add_to(&mut evidence);
        }
        if !compare(&evidence).is_empty() {
            suspects.insert(evidence.user);
        }
    }
    // In statements of their own, so that no snapshot stays open for them.
    let mut note = |user, _| {
        suspects.insert(user);
    };
    let records = since.records;
    compare_records(sources, &group, records, &mut note).await?;
    match group.users.first() {
        Some(user) if group.is_large => {
            suspects.extend(differs_in_use(store, user, records).await?.then(|| user.clone()))
        }
        _ => suspects.extend(repeat(|| store.differing_use_since(&group.users, records)).await?),
    }
    Ok(suspects)
}

/// Whether the rollup by service, model and API key of one user differs from the records since `since`.
async fn differs_in_use(store: &dyn SealStore, user: &UserId, since: Since) -> Result<bool, StoreError> {
    for mut range in ranges_of(store, user).await? {
        if let UseRange::Days { days, .. } = &mut range {
            if days.last < since.day {
                continue;
            }
            days.first = days.first.max(since.day);
        }
        if !repeat(|| store.differing_use(&range, 1)).await?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::biz::values::calendar::SystemClock;

    fn run(period: &str, is_finished: bool, position: &str) -> StoredRun {
        let at = DateTime::UNIX_EPOCH;
        StoredRun {
            job: "audit".into(),
            period: period.into(),
            position: Some(position.into()),
            started_at: at,
            finished_at: is_finished.then_some(at),
        }
    }

    #[test]
    fn records_are_read_from_a_day_and_the_time_of_a_reservation_before_the_last_run_if_it_was_clean() {
        let calendar = Calendar::new(chrono_tz::Asia::Shanghai, SystemClock);
        let proven = |runs: &[StoredRun], hours: u64| proven_by(runs, Duration::from_secs(hours * 3600), &calendar);
        let begin = |day: &str| Since::begin_of(day.parse().unwrap(), &calendar);
        // 04:00 in Shanghai on the 21st.
        let [earlier, last] = ["2026-11-19T20:00:00Z", "2026-11-20T20:00:00Z"];
        let clean = [run(earlier, true, "9 0 u"), run(last, true, "9 0 u")];
        assert_eq!(proven(&clean, 3), begin("2026-11-20"));
        assert_eq!(proven(&clean, 5), begin("2026-11-19"));
        // A run that goes on proves nothing yet, and one with a difference less than all before it.
        assert_eq!(proven(&[clean[0].clone(), run(last, false, "9 0 u")], 3), begin("2026-11-19"));
        assert_eq!(proven(&[clean[0].clone(), run(last, true, "9 1 u")], 3), Since::BEGINNING);
        assert_eq!(proven(&[], 3), Since::BEGINNING);
    }
}
