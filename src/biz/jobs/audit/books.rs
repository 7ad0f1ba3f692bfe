//! The books of an account, and their comparison with its history.
//!
//! For every user:
//! - balance = successful recharges − refunds of recharges − chargebacks + adjustments − charged amounts
//!   + refunds of charges
//! - used quota of a month = free units of its records, less those given back, + units taken over from
//!   the legacy service
//! - rollup of a day = its records
//! - rollup by service, model and API key of a day = its records, if it has all of them
//! - settled transactions = their records, one by one and in sum
//! - charges of PENDING, RELEASED and EXPIRED transactions = nothing
//! - refunds = their records = the sums that the refunded charges have; no charge is refunded beyond its
//!   units and its amount
//! - holds = PENDING reservations + pending refunds of recharges
//! - refunded and pending amounts of the orders = their refunds
//!
//! The calls that count for caps, and the use of API keys with quotas, are compared in `counts`.
//!
//! It also names the rows that the service cannot read, among them the quotas of API keys, which have
//! no user.

use std::{collections::BTreeMap, fmt};

use async_trait::async_trait;
use chrono::NaiveDate;

use super::{
    differences::{Difference, Listed, Owner},
    limits::LimitAudit,
};
use crate::biz::{
    jobs::use_audit::{DifferingUse, UseAudit},
    reports::usage::UseGroup,
    values::{
        error::StoreError,
        ids::{ApiKeyId, ServiceName, UserId},
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
    /// The refunded and the pending amounts of the orders.
    pub orders_refunded: Money,
    pub orders_refunding: Money,
    /// The refunds of the orders without chargebacks, the chargebacks, and the pending refunds.
    pub refunded: Money,
    pub charged_back: Money,
    pub refunding: Money,
    pub adjusted: Money,
    /// Sum and units of the settled transactions.
    pub settled_amount: Money,
    pub settled_count: i64,
    /// Sum and units of the records that belong to a transaction.
    pub recorded_amount: Money,
    pub recorded_count: i64,
    /// The refunds of charges.
    pub refunds: RefundBooks,
    pub used_quotas: BTreeMap<(ServiceName, String), i64>,
    /// Used units without a record, of quotas that were taken over from the legacy service. Below
    /// zero if the legacy records have more units than the legacy service had counted.
    pub opened_quotas: BTreeMap<(ServiceName, String), i64>,
    /// The holds of the account: of the balance, and of each quota if above zero.
    pub held: Money,
    pub held_quotas: BTreeMap<(ServiceName, String), i64>,
    /// The number of PENDING reservations that no sweep would find.
    pub stranded: u64,
    /// Transactions that are not COMMITTED and have a charge: each with its trace id and its status.
    pub unsettled: Listed<(String, String, ChargeBook)>,
    /// The sum of the holds of PENDING reservations.
    pub reserved: Money,
    pub reserved_quotas: BTreeMap<(ServiceName, String), i64>,
    /// Sum of all records but refunds; and of each month the free units of all records, less those that
    /// were given back.
    pub charged: Money,
    pub free_units: BTreeMap<(ServiceName, String), i64>,
    /// The days on which rollup and records differ, at most [`MAX_DAYS`] for all users of one
    /// snapshot. The database compares the days, because all days are too many to read.
    pub differing_days: Vec<DifferingDay>,
    /// Rows that the service cannot read, with their values. Settlement quarantines the account for
    /// some of them.
    pub unreadable: Listed<String>,
}

impl Evidence {
    pub fn of(user: UserId) -> Self {
        Self {
            user,
            balance: None,
            recharged: Money::ZERO,
            orders_refunded: Money::ZERO,
            orders_refunding: Money::ZERO,
            refunded: Money::ZERO,
            charged_back: Money::ZERO,
            refunding: Money::ZERO,
            adjusted: Money::ZERO,
            settled_amount: Money::ZERO,
            settled_count: 0,
            recorded_amount: Money::ZERO,
            recorded_count: 0,
            refunds: RefundBooks::default(),
            used_quotas: BTreeMap::new(),
            opened_quotas: BTreeMap::new(),
            held: Money::ZERO,
            held_quotas: BTreeMap::new(),
            stranded: 0,
            unsettled: Listed::default(),
            reserved: Money::ZERO,
            reserved_quotas: BTreeMap::new(),
            charged: Money::ZERO,
            free_units: BTreeMap::new(),
            differing_days: Vec::new(),
            unreadable: Listed::default(),
        }
    }
}

/// The refunds of one user's charges, as three tables have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RefundBooks {
    /// Sum of the refunds, and their units, with and without those that lapsed.
    pub amount: Money,
    pub count: i64,
    pub given_back_count: i64,
    /// Sum and units of their records.
    pub recorded_amount: Money,
    pub recorded_count: i64,
    /// Sum and units in the refunded charges.
    pub charges_amount: Money,
    pub charges_count: i64,
    /// The number of charges that have another sum than their refunds, or more than they were.
    pub wrong_charges: u64,
}

/// Usage of one service on one day, with the number of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DayBook {
    pub free_count: i64,
    pub paid_count: i64,
    pub amount: Money,
    pub free_records: i64,
    pub paid_records: i64,
    pub refunded_free: i64,
    pub refunded_paid: i64,
    pub refunded_amount: Money,
    pub free_refunds: i64,
    pub paid_refunds: i64,
}

/// A day of one service on which rollup and records differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DifferingDay {
    pub service: ServiceName,
    pub day: NaiveDate,
    pub rollup: DayBook,
    pub records: DayBook,
}

/// Units and amount of a charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChargeBook {
    pub free: i64,
    pub paid: i64,
    pub amount: Money,
}

impl fmt::Display for ChargeBook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} free and {} paid units for {}", self.free, self.paid, self.amount)
    }
}

/// A settled transaction that differs from its records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DifferingTransaction {
    pub trace: String,
    pub transaction: ChargeBook,
    pub records: ChargeBook,
}

impl fmt::Display for DayBook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { free_count, paid_count, amount, free_records: free, paid_records: paid, .. } = self;
        write!(f, "{free_count} free units in {free} records, {paid_count} paid units in {paid} records for {amount}")?;
        if self.free_refunds != 0 || self.paid_refunds != 0 {
            let Self { refunded_free, refunded_paid, refunded_amount, free_refunds, paid_refunds, .. } = self;
            let free = format!("{refunded_free} free units in {free_refunds} records");
            write!(f, ", refunded {free}, {refunded_paid} paid units in {paid_refunds} records for {refunded_amount}")?;
        }
        Ok(())
    }
}

/// Reads the books.
#[async_trait]
pub trait AuditStore: UseAudit + LimitAudit {
    /// Evidence of at most `limit` users after `after` in key order, read in one snapshot; empty at
    /// the end.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn evidence(&self, after: Option<&UserId>, limit: u32) -> Result<Vec<Evidence>, StoreError>;

    /// Evidence of one user, read in one snapshot.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn evidence_of(&self, user: &UserId) -> Result<Evidence, StoreError>;

    /// The first `limit` quotas of API keys that the service cannot read, with their values.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn unreadable_key_quotas(&self, limit: u32) -> Result<Vec<(ApiKeyId, String)>, StoreError>;
}

/// Most differing days that are read in one snapshot.
pub const MAX_DAYS: u32 = 10_000;
/// Most rows of a kind that are read in one snapshot to be named. Further ones are counted by the database.
pub const MAX_ROWS: u32 = 10_000;

/// The differences in one group of the rollup by service, model and API key.
pub(super) fn compare_use(user: &UserId, differing: &DifferingUse) -> Vec<Difference> {
    let DifferingUse { day, group: UseGroup { service, model, api_key }, .. } = differing;
    let difference = |(name, says, should_be)| Difference {
        owner: Owner::User(user.clone()),
        book: format!("{name} in the rollup of service {service}, model '{model}', API key '{api_key}' on {day}"),
        says,
        should_be,
    };
    differing.differences().into_iter().map(difference).collect()
}

/// The difference of a transaction.
pub(super) fn compare_transaction(user: UserId, differing: DifferingTransaction) -> Difference {
    let DifferingTransaction { trace, transaction, records } = differing;
    Difference {
        owner: Owner::User(user),
        book: format!("transaction {trace}"),
        says: transaction.to_string(),
        should_be: records.to_string(),
    }
}

/// The differences in one user's books.
pub fn compare(evidence: &Evidence) -> Vec<Difference> {
    let owner = Owner::User(evidence.user.clone());
    let mut differences = evidence.unreadable.unreadable(&owner);
    let mut expect = |book: String, says: String, should_be: String| {
        if says != should_be {
            differences.push(Difference { owner: Owner::User(evidence.user.clone()), book, says, should_be });
        }
    };

    // Each kind of movement of the balance, signed as it moved it.
    let movements = [
        evidence.recharged,
        -evidence.refunded,
        -evidence.charged_back,
        evidence.adjusted,
        -evidence.charged,
        evidence.refunds.recorded_amount,
    ];
    let balance: Money = movements.into_iter().sum();
    let says = evidence.balance.map_or("no account".into(), |balance| balance.to_string());
    expect("balance".into(), says, balance.to_string());

    expect("amount of transactions".into(), evidence.settled_amount.to_string(), evidence.recorded_amount.to_string());
    expect("units of transactions".into(), evidence.settled_count.to_string(), evidence.recorded_count.to_string());

    let refunds = &evidence.refunds;
    expect("amount of refunds".into(), refunds.amount.to_string(), refunds.recorded_amount.to_string());
    expect("units of refunds".into(), refunds.given_back_count.to_string(), refunds.recorded_count.to_string());
    expect("amount of refunded charges".into(), refunds.charges_amount.to_string(), refunds.amount.to_string());
    expect("units of refunded charges".into(), refunds.charges_count.to_string(), refunds.count.to_string());
    expect("charges with other refunds than their sum".into(), refunds.wrong_charges.to_string(), 0.to_string());

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
    expect("held balance".into(), evidence.held.to_string(), evidence.reserved.plus(evidence.refunding).to_string());
    let refunded = evidence.refunded.plus(evidence.charged_back);
    expect("refunded amount of top-ups".into(), evidence.orders_refunded.to_string(), refunded.to_string());
    let refunding = evidence.refunding;
    expect("pending refunds of top-ups".into(), evidence.orders_refunding.to_string(), refunding.to_string());
    expect("reservations that never expire".into(), evidence.stranded.to_string(), 0.to_string());
    for key in keys(&evidence.reserved_quotas, &evidence.held_quotas) {
        expect(
            format!("held quota of {} in {}", key.0, key.1),
            evidence.held_quotas.get(key).copied().unwrap_or(0).to_string(),
            evidence.reserved_quotas.get(key).copied().unwrap_or(0).to_string(),
        );
    }
    for (trace, status, charged) in evidence.unsettled.first() {
        let nothing = ChargeBook { free: 0, paid: 0, amount: Money::ZERO };
        expect(format!("charge of {status} transaction {trace}"), charged.to_string(), nothing.to_string());
    }
    for DifferingDay { service, day, rollup, records } in &evidence.differing_days {
        expect(format!("rollup of {service} on {day}"), rollup.to_string(), records.to_string());
    }
    differences.extend(evidence.unsettled.further(&owner, "charges of transactions that are not COMMITTED"));
    differences
}

fn keys<'a, K: Ord, A, B>(one: &'a BTreeMap<K, A>, other: &'a BTreeMap<K, B>) -> std::collections::BTreeSet<&'a K> {
    one.keys().chain(other.keys()).collect()
}
