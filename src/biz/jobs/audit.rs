//! The proof of the books: what the accounts say against what made them so.
//!
//! For every user, balance = successful recharges + adjustments − charged amounts; used
//! quota = the free records of that month + what it was opened with; each day's rollup =
//! its records; the settled transactions add up to the records, and the PENDING ones to
//! what is held.

use std::{collections::BTreeMap, fmt};

use async_trait::async_trait;
use chrono::NaiveDate;

use super::progress::{Progress, ScanPosition};
use crate::biz::{
    account::users::Users,
    values::{
        error::StoreError,
        ids::{ServiceName, UserId},
        money::Money,
    },
};

/// What is known of one user, read in one snapshot. Numbers that should never be below zero
/// are read as they are, so that one which is does not end the proof of all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    pub user: UserId,
    /// `None`: traces of a user who has no account row.
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
    /// Used units that no record accounts for, of quotas that were taken over from the
    /// legacy service; below zero where its records say more than it had counted.
    pub opened_quotas: BTreeMap<(ServiceName, String), i64>,
    /// What the account says is held, of the balance and of each quota above zero.
    pub held: Money,
    pub held_quotas: BTreeMap<(ServiceName, String), i64>,
    /// PENDING reservations that no sweep would find.
    pub stranded: u64,
    /// What the PENDING reservations hold.
    pub reserved: Money,
    pub reserved_quotas: BTreeMap<(ServiceName, String), i64>,
    /// Sum of all records, and their free units in each month.
    pub charged: Money,
    pub free_units: BTreeMap<(ServiceName, String), i64>,
    /// The days on which rollup and records do not agree, [`MAX_DAYS`] at most of all users
    /// that are read together. All their days are too many to be read.
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

/// Use of one service on one day, and in how many records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DayBook {
    pub free_count: i64,
    pub paid_count: i64,
    pub amount: Money,
    pub free_records: i64,
    pub paid_records: i64,
}

/// A day of one service that the rollup and the records tell differently.
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
    /// Evidence of at most `limit` users behind `after` in key order, all of one
    /// snapshot; empty at the end.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn evidence(&self, after: Option<&UserId>, limit: u32) -> Result<Vec<Evidence>, StoreError>;
}

/// What an audit found, the runs included that this one goes on from.
#[derive(Debug, Default)]
pub struct AuditReport {
    pub users: u64,
    pub difference_count: u64,
    /// Those that this run told.
    pub differences: Vec<Difference>,
}

/// The name that the regular job is remembered by.
pub const JOB: &str = "audit";
/// Differences that are told; beyond it they are only counted.
pub const MAX_REPORTED: u64 = 1_000;
/// Days that differ and are told, of the users read in one snapshot.
pub const MAX_DAYS: u32 = 10_000;
/// Users read in one snapshot.
const USERS_AT_A_TIME: u32 = 200;

/// Audits every user, from where `progress` says that it got to, and tells differences as it
/// finds them.
///
/// # Errors
/// [`StoreError::Unavailable`], also when the lease of the run is lost;
/// [`StoreError::Failed`].
pub async fn audit(store: &dyn AuditStore, progress: &dyn Progress) -> Result<AuditReport, StoreError> {
    let mut scan = ScanPosition::<2>::of(progress);
    let mut differences = Vec::new();
    progress.expect(store.users_behind(scan.last.as_ref()).await?);
    // Ends: each chunk begins behind the last.
    loop {
        let chunk = store.evidence(scan.last.as_ref(), USERS_AT_A_TIME).await?;
        let Some(end) = chunk.last() else {
            let [users, difference_count] = scan.counts;
            return Ok(AuditReport { users, difference_count, differences });
        };
        let users = chunk.len() as u64;
        for difference in chunk.iter().flat_map(compare) {
            scan.counts[1] += 1;
            if scan.counts[1] <= MAX_REPORTED {
                progress.tell(&difference.to_string());
                differences.push(difference);
            }
        }
        scan.counts[0] += users;
        scan.last = Some(end.user.clone());
        progress.reached(&scan.to_string(), users).await?;
    }
}

/// How many differences an audit had found when it got to a position; `None` where that is no
/// position of an audit.
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
