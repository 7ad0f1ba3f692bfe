//! The whole audit: reads the books and the history of every user.

use std::collections::BTreeSet;

use super::{
    books::{Evidence, compare, compare_transaction, compare_use},
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
    /// API keys whose quotas this run could not compare, because new users of them came meanwhile.
    pub keys_left: u64,
}

/// The stored name of the regular job.
pub const JOB: &str = "audit";
/// The stored name of the job that audits everything.
pub const WHOLE_JOB: &str = "audit-all";
/// Most differences that are reported one by one. Further ones are only counted.
pub const MAX_REPORTED: u64 = 1_000;
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
}

impl<'p> Findings<'p> {
    /// Resumes from the checkpoint of `progress`. A new audit begins with the quotas of API keys.
    pub async fn begin(store: &dyn SealStore, progress: &'p dyn Progress) -> Result<Self, StoreError> {
        let scan = ScanPosition::<2>::of(progress);
        let mut findings = Self { progress, scan, differences: Vec::new() };
        progress.expect(store.users_behind(findings.scan.last.as_ref()).await?);
        // The counts of a checkpoint include the keys.
        if findings.scan.last.is_none() {
            for (key, row) in repeat(|| store.unreadable_key_quotas(MAX_KEY_QUOTAS)).await? {
                findings.note(Difference::unreadable(Owner::ApiKey(key), row));
            }
        }
        Ok(findings)
    }

    pub fn note(&mut self, difference: Difference) {
        self.scan.counts[1] += 1;
        if self.scan.counts[1] <= MAX_REPORTED {
            self.progress.report(&difference.to_string());
            self.differences.push(difference);
        }
    }

    /// Stores the checkpoint behind `last`.
    pub async fn reached(&mut self, last: UserId, users: u64) -> Result<(), StoreError> {
        self.scan.counts[0] += users;
        self.scan.last = Some(last);
        self.progress.reached(&self.scan.to_string(), users).await
    }

    pub fn report(self, suspects: u64) -> AuditReport {
        let [users, difference_count] = self.scan.counts;
        AuditReport { users, difference_count, differences: self.differences, suspects, keys_left: 0 }
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
    let mut keys_left = 0;
    if findings.scan.last.is_none() {
        let mut note = |difference| findings.note(difference);
        keys_left = compare_all_keys(store, MOST_USERS, sources.counting(), &mut note).await?;
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
    Ok(AuditReport { keys_left, ..findings.report(0) })
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
    evidence.iter().flat_map(compare).for_each(&mut noted);
    for range in ranges {
        for (user, differing) in repeat(|| store.differing_use(range, MAX_GROUPS)).await? {
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
