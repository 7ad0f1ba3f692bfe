//! The whole audit: reads the books and the history of every user.

use std::collections::BTreeSet;

use super::{
    books::{Evidence, MAX_DAYS, compare, compare_transaction, compare_use},
    charges::compare_all_charges,
    differences::{Difference, Owner},
    limits::{MOST_USERS, compare_all_keys, compare_caps},
    pieces::Sources,
};
use crate::biz::{
    account::users::UserSpan,
    jobs::{
        progress::{Progress, ScanPosition},
        retry::repeat,
        seals::{
            proof::{lacking_seals, verify},
            store::SealStore,
        },
        use_audit::{UseRange, ranges, ranges_of},
    },
    values::{error::StoreError, ids::UserId},
};

/// The result of an audit. The counts include the interrupted run from which this one resumes.
#[derive(Debug, Default)]
pub struct AuditReport {
    pub users: u64,
    pub difference_count: u64,
    /// The differences that this run reported.
    pub differences: Vec<Difference>,
    /// Users whom the nightly audit audited whole in this run.
    pub suspects: u64,
}

/// The stored name of the regular job.
pub const JOB: &str = "audit";
/// The stored name of the job that audits everything.
pub const WHOLE_JOB: &str = "audit-all";
/// Most differences of users that a run reports one by one. Further ones are only counted.
pub const MAX_REPORTED: u64 = 1_000;
/// The same of API keys, so that they leave room for the differences of money.
const MAX_REPORTED_OF_KEYS: u64 = 200;
/// Most differing groups of the rollup by service, model and API key that one statement reads.
const MAX_GROUPS: u32 = 10_000;
/// Most unreadable quotas of API keys that are read.
const MAX_KEY_QUOTAS: u32 = 10_000;
/// Users read in one snapshot.
const USERS_AT_A_TIME: u32 = 200;

/// The position of an audit, and its differences.
pub(super) struct Findings<'p> {
    pub progress: &'p dyn Progress,
    /// The users and the differences so far.
    pub scan: ScanPosition<2>,
    pub differences: Vec<Difference>,
    /// The reported differences of users and of API keys.
    reported: [u64; 2],
}

impl<'p> Findings<'p> {
    /// Resumes from the checkpoint of `progress`. A new audit begins with the quotas of API keys.
    pub async fn begin(store: &dyn SealStore, progress: &'p dyn Progress) -> Result<Self, StoreError> {
        let mut findings = Self::at_checkpoint(progress);
        progress.expect(store.users_behind(findings.scan.last.as_ref()).await?);
        // The counts of a checkpoint include the keys.
        if findings.scan.last.is_none() {
            let rows = repeat(|| store.unreadable_key_quotas(MAX_KEY_QUOTAS)).await?;
            if let Some((key, _)) = rows.last().filter(|_| rows.len() >= MAX_KEY_QUOTAS as usize) {
                let rows = "quotas up to this key that the service cannot read";
                findings.note(Difference::cut(Owner::ApiKey(key.clone()), rows, MAX_KEY_QUOTAS));
            }
            for (key, row) in rows {
                findings.note(Difference::unreadable(Owner::ApiKey(key), row));
            }
        }
        Ok(findings)
    }

    fn at_checkpoint(progress: &'p dyn Progress) -> Self {
        Self { progress, scan: ScanPosition::of(progress), differences: Vec::new(), reported: [0; 2] }
    }

    pub fn note(&mut self, difference: Difference) {
        self.scan.counts[1] += 1;
        let (reported, most) = match &difference.owner {
            Owner::User(_) => (&mut self.reported[0], MAX_REPORTED),
            Owner::ApiKey(_) => (&mut self.reported[1], MAX_REPORTED_OF_KEYS),
        };
        if *reported < most {
            *reported += 1;
            self.progress.report(&difference.to_string());
            self.differences.push(difference);
        }
    }

    /// Stores the checkpoint behind `last`.
    pub async fn reached(&mut self, last: UserId, users: u64) -> Result<(), StoreError> {
        self.scan.counts[0] += users;
        self.scan.last = Some(last);
        let position = self.scan.to_string();
        self.progress.reached(&position, users).await
    }

    pub fn report(self, suspects: u64) -> AuditReport {
        let [users, difference_count] = self.scan.counts;
        AuditReport { users, difference_count, differences: self.differences, suspects }
    }
}

/// Audits every user with all seals, and reports each difference at once. Resumes from the checkpoint of
/// `progress`.
///
/// # Errors
/// [`StoreError::Unavailable`], also if the lease of the run is lost; [`StoreError::Failed`].
pub async fn audit(sources: Sources<'_>, progress: &dyn Progress) -> Result<AuditReport, StoreError> {
    let store = sources.store;
    let mut findings = Findings::begin(store, progress).await?;
    if findings.scan.last.is_none() {
        let mut note = |difference| findings.note(difference);
        compare_all_keys(store, MOST_USERS, sources.counting(), &mut note).await?;
        // Before the first user. A run that resumes has the differences of the keys.
        findings.reached(UserId::from_stored(""), 0).await?;
    }
    // Ends, because each chunk begins after the last one.
    loop {
        let chunk = repeat(|| store.evidence(findings.scan.last.as_ref(), USERS_AT_A_TIME)).await?;
        let Some(end) = chunk.last() else { break };
        let span = UserSpan { after: findings.scan.last.clone(), last: end.user.clone() };
        // In statements of their own, because one snapshot of all records would stay open for minutes.
        let ranges = ranges(store, &span).await?;
        compare_all(sources, &chunk, &ranges, &mut |difference| findings.note(difference)).await?;
        findings.reached(span.last, chunk.len() as u64).await?;
    }
    Ok(findings.report(0))
}

/// Calls `note` for each difference of one user, as [`audit`] does.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Failed`].
pub(in crate::biz::jobs) async fn audit_user(
    sources: Sources<'_>,
    user: &UserId,
    note: &mut (dyn FnMut(Difference) + Send),
) -> Result<(), StoreError> {
    let evidence = repeat(|| sources.store.evidence_of(user)).await?;
    let ranges = ranges_of(sources.store, user).await?;
    compare_all(sources, &[evidence], &ranges, note).await
}

/// Compares the books of some users, in key order, with their history and their seals.
async fn compare_all(
    sources: Sources<'_>,
    evidence: &[Evidence],
    ranges: &[UseRange],
    note: &mut (dyn FnMut(Difference) + Send),
) -> Result<(), StoreError> {
    let Sources { store, calendar, .. } = sources;
    let users: Vec<UserId> = evidence.iter().map(|evidence| evidence.user.clone()).collect();
    let mut clean = BTreeSet::from_iter(users.iter().cloned());
    let mut noted = |difference: Difference| {
        if let Owner::User(user) = &difference.owner {
            clean.remove(user);
        }
        note(difference);
    };
    let days: usize = evidence.iter().map(|of_user| of_user.differing_days.len()).sum();
    let last_with_days = evidence.iter().rfind(|of_user| !of_user.differing_days.is_empty());
    if let Some(last) = last_with_days.filter(|_| days >= MAX_DAYS as usize) {
        let days = "days, up to this user, with a rollup that differs";
        noted(Difference::cut(Owner::User(last.user.clone()), days, MAX_DAYS));
    }
    evidence.iter().flat_map(compare).for_each(&mut noted);
    for range in ranges {
        let groups = repeat(|| store.differing_use(range, MAX_GROUPS)).await?;
        if let Some((user, _)) = groups.last().filter(|_| groups.len() >= MAX_GROUPS as usize) {
            let rows = "groups, up to this user, with a rollup by service, model and API key that differs";
            noted(Difference::cut(Owner::User(user.clone()), rows, MAX_GROUPS));
        }
        for (user, differing) in groups {
            compare_use(&user, &differing).into_iter().for_each(&mut noted);
        }
    }
    compare_all_charges(sources, &users, &mut |user, differing| noted(compare_transaction(user, differing))).await?;
    verify(store, calendar, &users).await?.into_iter().for_each(&mut noted);
    // An account that differs is not sealed.
    let clean: Vec<UserId> = clean.into_iter().collect();
    lacking_seals(store, calendar, &clean).await?.into_iter().for_each(&mut *note);
    // In no seal.
    compare_caps(store, &users, sources.counting(), note).await
}

/// The number of differences in a checkpoint of the audit; `None` if `position` is malformed.
pub fn differences_at(position: Option<&str>) -> Option<u64> {
    let scan = position.map_or_else(|| Some(ScanPosition::begin()), ScanPosition::<2>::read);
    scan.map(|scan| scan.counts[1])
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use async_trait::async_trait;

    use super::*;
    use crate::biz::values::ids::ApiKeyId;

    /// Counts the lines of a report.
    #[derive(Default)]
    struct Lines(AtomicU64);

    #[async_trait]
    impl Progress for Lines {
        fn position(&self) -> Option<String> {
            None
        }

        fn expect(&self, _: u64) {}

        async fn reached(&self, _: &str, _: u64) -> Result<(), StoreError> {
            Ok(())
        }

        fn report(&self, _: &str) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn difference(owner: Owner) -> Difference {
        Difference { owner, book: "balance".into(), says: "1".into(), should_be: "0".into() }
    }

    fn of_key() -> Difference {
        difference(Owner::ApiKey(ApiKeyId::from_stored("k")))
    }

    #[test]
    fn many_differences_of_api_keys_leave_room_for_those_of_users() {
        let progress = Lines::default();
        let mut findings = Findings::at_checkpoint(&progress);
        let lines = || progress.0.load(Ordering::Relaxed);
        (0..MAX_REPORTED + 5).for_each(|_| findings.note(of_key()));
        assert_eq!(lines(), MAX_REPORTED_OF_KEYS);
        (0..MAX_REPORTED + 7).for_each(|_| findings.note(difference(Owner::User(UserId::from_stored("u")))));
        assert_eq!(lines(), MAX_REPORTED_OF_KEYS + MAX_REPORTED);
        let report = findings.report(0);
        assert_eq!(report.difference_count, 2 * MAX_REPORTED + 12);
        assert_eq!(report.differences.len() as u64, MAX_REPORTED_OF_KEYS + MAX_REPORTED);
    }
}
