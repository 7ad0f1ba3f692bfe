//! The audit compares each account with its history.
//!
//! For every user:
//! - balance = successful recharges + adjustments − charged amounts
//! - used quota of a month = free units of its records + units taken over from the legacy service
//! - rollup of a day = its records
//! - settled transactions = their records
//! - holds = PENDING reservations

use std::{collections::BTreeMap, fmt};

use async_trait::async_trait;
use chrono::NaiveDate;

use super::progress::{Progress, ScanPosition};
use crate::biz::{
    account::users::Users,
    jobs::retry::repeat,
    values::{
        error::StoreError,
        ids::{ServiceName, UserId},
        money::Money,
    },
};

/// The figures of one user, read in one snapshot. Counts are signed, so that a wrong negative number
/// is reported and does not stop the audit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    pub user: UserId,
    /// `None` for a user without an account row, who has other rows.
    pub balance: Option<Money>,
    pub recharged: Money,
    pub adjusted: Money,
    /// Sum and units of the settled transactions.
    pub settled_amount: Money,
    pub settled_count: i64,
    /// Sum and units of the records that belong to a transaction.
    pub recorded_amount: Money,
    pub recorded_count: i64,
    pub used_quotas: BTreeMap<(ServiceName, String), i64>,
    /// Used units without a record, of quotas that were taken over from the legacy service. Below
    /// zero if the legacy records have more units than the legacy service had counted.
    pub opened_quotas: BTreeMap<(ServiceName, String), i64>,
    /// The holds of the account: of the balance, and of each quota if above zero.
    pub held: Money,
    pub held_quotas: BTreeMap<(ServiceName, String), i64>,
    /// The number of PENDING reservations that no sweep would find.
    pub stranded: u64,
    /// The sum of the holds of PENDING reservations.
    pub reserved: Money,
    pub reserved_quotas: BTreeMap<(ServiceName, String), i64>,
    /// Sum of all records, and their free units in each month.
    pub charged: Money,
    pub free_units: BTreeMap<(ServiceName, String), i64>,
    /// The days on which rollup and records differ, at most [`MAX_DAYS`] for all users of one
    /// snapshot. The database compares the days, because all days are too many to read.
    pub differing_days: Vec<DifferingDay>,
    /// Rows that settlement cannot read, with their values: the account is quarantined for them.
    pub unreadable: Vec<String>,
}

impl Evidence {
    pub fn of(user: UserId) -> Self {
        Self {
            user,
            balance: None,
            recharged: Money::ZERO,
            adjusted: Money::ZERO,
            settled_amount: Money::ZERO,
            settled_count: 0,
            recorded_amount: Money::ZERO,
            recorded_count: 0,
            used_quotas: BTreeMap::new(),
            opened_quotas: BTreeMap::new(),
            held: Money::ZERO,
            held_quotas: BTreeMap::new(),
            stranded: 0,
            reserved: Money::ZERO,
            reserved_quotas: BTreeMap::new(),
            charged: Money::ZERO,
            free_units: BTreeMap::new(),
            differing_days: Vec::new(),
            unreadable: Vec::new(),
        }
    }
}

/// Usage of one service on one day, with the number of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DayBook {
    pub free_count: i64,
    pub paid_count: i64,
    pub amount: Money,
    pub free_records: i64,
    pub paid_records: i64,
}

/// A day of one service on which rollup and records differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DifferingDay {
    pub service: ServiceName,
    pub day: NaiveDate,
    pub rollup: DayBook,
    pub records: DayBook,
}

impl fmt::Display for DayBook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { free_count, paid_count, amount, free_records: free, paid_records: paid } = self;
        write!(f, "{free_count} free units in {free} records, {paid_count} paid units in {paid} records for {amount}")
    }
}

/// A book that does not balance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub user: UserId,
    pub book: String,
    pub says: String,
    pub should_be: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user {}: {} says {}, should be {}", self.user, self.book, self.says, self.should_be)
    }
}

/// Reads the books.
#[async_trait]
pub trait AuditStore: Users {
    /// Evidence of at most `limit` users after `after` in key order, read in one snapshot; empty at
    /// the end.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn evidence(&self, after: Option<&UserId>, limit: u32) -> Result<Vec<Evidence>, StoreError>;
}

/// The result of an audit. The counts include the interrupted run from which this one resumes.
#[derive(Debug, Default)]
pub struct AuditReport {
    pub users: u64,
    pub difference_count: u64,
    /// The differences that this run reported.
    pub differences: Vec<Difference>,
}

/// The stored name of the regular job.
pub const JOB: &str = "audit";
/// Most differences that are reported one by one. Further ones are only counted.
pub const MAX_REPORTED: u64 = 1_000;
/// Most differing days that are read in one snapshot.
pub const MAX_DAYS: u32 = 10_000;
/// Users read in one snapshot.
const USERS_AT_A_TIME: u32 = 200;

/// Audits every user, and reports each difference at once. Resumes from the checkpoint of
/// `progress`.
///
/// # Errors
/// [`StoreError::Unavailable`], also if the lease of the run is lost; [`StoreError::Failed`].
pub async fn audit(store: &dyn AuditStore, progress: &dyn Progress) -> Result<AuditReport, StoreError> {
    let mut scan = ScanPosition::<2>::of(progress);
    let mut differences = Vec::new();
    progress.expect(store.users_behind(scan.last.as_ref()).await?);
    // Ends, because each chunk begins after the last one.
    loop {
        let chunk = repeat(|| store.evidence(scan.last.as_ref(), USERS_AT_A_TIME)).await?;
        let Some(end) = chunk.last() else {
            let [users, difference_count] = scan.counts;
            return Ok(AuditReport { users, difference_count, differences });
        };
        let users = chunk.len() as u64;
        for difference in chunk.iter().flat_map(compare) {
            scan.counts[1] += 1;
            if scan.counts[1] <= MAX_REPORTED {
                progress.report(&difference.to_string());
                differences.push(difference);
            }
        }
        scan.counts[0] += users;
        scan.last = Some(end.user.clone());
        progress.reached(&scan.to_string(), users).await?;
    }
}

/// The number of differences in a checkpoint of the audit; `None` if `position` is malformed.
pub fn differences_at(position: Option<&str>) -> Option<u64> {
    let scan = position.map_or_else(|| Some(ScanPosition::begin()), ScanPosition::<2>::read);
    scan.map(|scan| scan.counts[1])
}

/// The differences in one user's books.
pub fn compare(evidence: &Evidence) -> Vec<Difference> {
    let mut differences = Vec::new();
    let mut expect = |book: String, says: String, should_be: String| {
        if says != should_be {
            differences.push(Difference { user: evidence.user.clone(), book, says, should_be });
        }
    };

    for row in &evidence.unreadable {
        expect("stored row".into(), row.clone(), "one that settlement can read".into());
    }
    let balance: Money = [evidence.recharged, evidence.adjusted, -evidence.charged].into_iter().sum();
    let says = evidence.balance.map_or("no account".into(), |balance| balance.to_string());
    expect("balance".into(), says, balance.to_string());

    expect("amount of transactions".into(), evidence.settled_amount.to_string(), evidence.recorded_amount.to_string());
    expect("units of transactions".into(), evidence.settled_count.to_string(), evidence.recorded_count.to_string());

    let opened = evidence.opened_quotas.iter().map(|(key, units)| (key.clone(), i128::from(*units)));
    let mut free: BTreeMap<(ServiceName, String), i128> = opened.collect();
    for (month, units) in &evidence.free_units {
        *free.entry(month.clone()).or_default() += i128::from(*units);
    }
    for key in keys(&free, &evidence.used_quotas) {
        expect(
            format!("used quota of {} in {}", key.0, key.1),
            evidence.used_quotas.get(key).copied().unwrap_or(0).to_string(),
            free.get(key).copied().unwrap_or(0).to_string(),
        );
    }
    expect("held balance".into(), evidence.held.to_string(), evidence.reserved.to_string());
    expect("reservations that never expire".into(), evidence.stranded.to_string(), 0.to_string());
    for key in keys(&evidence.reserved_quotas, &evidence.held_quotas) {
        expect(
            format!("held quota of {} in {}", key.0, key.1),
            evidence.held_quotas.get(key).copied().unwrap_or(0).to_string(),
            evidence.reserved_quotas.get(key).copied().unwrap_or(0).to_string(),
        );
    }
    for DifferingDay { service, day, rollup, records } in &evidence.differing_days {
        expect(format!("rollup of {service} on {day}"), rollup.to_string(), records.to_string());
    }
    differences
}

fn keys<'a, K: Ord, A, B>(one: &'a BTreeMap<K, A>, other: &'a BTreeMap<K, B>) -> std::collections::BTreeSet<&'a K> {
    one.keys().chain(other.keys()).collect()
}
