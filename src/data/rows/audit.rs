//! The books of many users, as the audit compares them.

use std::collections::BTreeMap;

use super::account::user_of;
use crate::{
    biz::{
        events::alerts::Alerts,
        jobs::audit::books::{ChargeBook, DifferingDay, DifferingTransaction, Evidence, MAX_ROWS},
        settlement::order_refund::{RefundKind, RefundStatus},
        values::{
            error::StoreError,
            ids::{ApiKeyId, ServiceName, UserId},
        },
    },
    data::{error::corrupt, row::Columns},
};

/// Adds one row of a book to the evidence. Its first column is the user.
pub type Note<R> = fn(&mut Evidence, &R) -> Result<(), StoreError>;

/// Adds rows that were not read to a list of the evidence.
pub type Further = fn(&mut Evidence, u64);

/// A list of rows that should not be: its query, without a limit, with the user in the first column; and the functions
/// that note its rows and the number of the others.
pub type List<R> = (&'static str, Note<R>, Further);

/// The query of the first rows of a list, [`MAX_ROWS`] of all users.
pub fn first_rows(list: &str) -> String {
    format!("{list} LIMIT {MAX_ROWS}")
}

/// Whether a list may have more than these first rows.
pub fn is_full<R>(first: &[R]) -> bool {
    first.len() >= MAX_ROWS as usize
}

/// The query of the number of rows of a list, by user.
pub fn counted(list: &str) -> String {
    format!("SELECT user_id, COUNT(*) FROM ({list}) every_row GROUP BY user_id")
}

/// The evidence of several users.
pub struct Books(BTreeMap<UserId, Evidence>);

impl Books {
    /// The users, one a row.
    pub fn of_users(rows: &[impl Columns]) -> Result<Self, StoreError> {
        let evidence = |row| user_of(row).map(|user| (user.clone(), Evidence::of(user)));
        rows.iter().map(evidence).collect::<Result<_, _>>().map(Self)
    }

    /// Some users, with or without rows.
    pub fn of_list(users: &[UserId]) -> Self {
        Self(users.iter().map(|user| (user.clone(), Evidence::of(user.clone()))).collect())
    }

    /// The first and the last of the users.
    pub fn span(&self) -> Option<(UserId, UserId)> {
        let (first, last) = (self.0.keys().next()?, self.0.keys().next_back()?);
        Some((first.clone(), last.clone()))
    }

    /// Adds the rows of a book to the evidence.
    pub fn note<R: Columns>(&mut self, rows: &[R], note: Note<R>) -> Result<(), StoreError> {
        for row in rows {
            if let Some(evidence) = self.0.get_mut(&user_of(row)?) {
                // One unreadable row must not end the audit of the others.
                match note(evidence, row) {
                    Err(StoreError::Failed(why)) => evidence.unreadable.push(why),
                    noted => noted?,
                }
            }
        }
        Ok(())
    }

    /// Counts those of the rows of a list that were not read, by the `read` ones and the rows of [`counted`].
    pub fn note_further<R: Columns>(&mut self, read: &[R], counts: &[R], further: Further) -> Result<(), StoreError> {
        for count in counts {
            let user = user_of(count)?;
            let known = read.iter().filter(|row| user_of(*row).is_ok_and(|of_row| of_row == user)).count();
            if let Some(evidence) = self.0.get_mut(&user) {
                further(evidence, count.number::<u64>(1)?.saturating_sub(known as u64));
            }
        }
        Ok(())
    }

    pub fn note_days(&mut self, days: Vec<(UserId, DifferingDay)>) {
        for (user, day) in days {
            if let Some(evidence) = self.0.get_mut(&user) {
                evidence.differing_days.push(day);
            }
        }
    }

    pub fn into_evidence(self) -> Vec<Evidence> {
        self.0.into_values().collect()
    }
}

/// A service and a month, in the second and third column.
fn month_of(row: &impl Columns) -> Result<(ServiceName, String), StoreError> {
    Ok((ServiceName::from_stored(row.text(1)?), row.text(2)?))
}

/// Balance, held.
pub fn note_balance(evidence: &mut Evidence, row: &impl Columns) -> Result<(), StoreError> {
    evidence.balance = Some(row.money(1)?);
    evidence.held = row.money(2)?;
    Ok(())
}

/// As [`note_balance`], with the alerts, and whether the row is unreadable.
pub fn note_account(evidence: &mut Evidence, row: &impl Columns) -> Result<(), StoreError> {
    note_balance(evidence, row)?;
    note_if_unreadable(evidence, row, 4, "balance")?;
    ensure_alerts(row.optional_text(3)?)
}

/// The sum of the credited top-ups, and of their refunded and pending amounts.
pub fn note_recharges(evidence: &mut Evidence, row: &impl Columns) -> Result<(), StoreError> {
    evidence.recharged = row.money(1)?;
    evidence.orders_refunded = row.money(2)?;
    evidence.orders_refunding = row.money(3)?;
    Ok(())
}

/// As [`note_recharges`], with the number of unreadable orders.
pub fn note_orders(evidence: &mut Evidence, row: &impl Columns) -> Result<(), StoreError> {
    note_recharges(evidence, row)?;
    note_if_unreadable(evidence, row, 4, "order")
}

/// Status, kind and sum of the refunds of top-ups.
pub fn note_order_refunds(evidence: &mut Evidence, row: &impl Columns) -> Result<(), StoreError> {
    let status: RefundStatus = row.text(1)?.parse().map_err(|_| corrupt("status of a refund"))?;
    let kind: RefundKind = row.text(2)?.parse().map_err(|_| corrupt("kind of a refund"))?;
    let sum = match (status, kind) {
        (RefundStatus::Pending, _) => &mut evidence.refunding,
        (RefundStatus::Success, RefundKind::Chargeback) => &mut evidence.charged_back,
        (RefundStatus::Success, RefundKind::Requested | RefundKind::Reported) => &mut evidence.refunded,
        (RefundStatus::Failed, _) => return Ok(()),
    };
    *sum = sum.plus(row.money(3)?);
    Ok(())
}

/// The sum of the adjustments.
pub fn note_adjustments(evidence: &mut Evidence, row: &impl Columns) -> Result<(), StoreError> {
    evidence.adjusted = row.money(1)?;
    Ok(())
}

/// Amount and units of the transactions, and of their refunds.
pub fn note_transactions(evidence: &mut Evidence, row: &impl Columns) -> Result<(), StoreError> {
    evidence.settled_amount = row.money(1)?;
    evidence.settled_count = row.number(2)?;
    evidence.refunds.charges_amount = row.money(3)?;
    evidence.refunds.charges_count = row.number(4)?;
    Ok(())
}

/// Amount and units of the refunds, and the units that were given back.
pub fn note_refunds(evidence: &mut Evidence, row: &impl Columns) -> Result<(), StoreError> {
    evidence.refunds.amount = row.money(1)?;
    evidence.refunds.count = row.number(2)?;
    evidence.refunds.given_back_count = row.number(3)?;
    Ok(())
}

/// As [`note_refunds`]. The refunded charges are compared one by one, and not in sum.
pub fn note_refunds_alone(evidence: &mut Evidence, row: &impl Columns) -> Result<(), StoreError> {
    note_refunds(evidence, row)?;
    let refunds = &mut evidence.refunds;
    (refunds.charges_amount, refunds.charges_count) = (refunds.amount, refunds.count);
    Ok(())
}

macro_rules! wrong_charges {
    ($users:literal) => {
        concat!(
            "SELECT r.user_id, COUNT(*) FROM (SELECT user_id, trace_id, SUM(free_count + lapsed_count) AS free, \
             SUM(paid_count) AS paid, SUM(amount) AS amount FROM charge_refund WHERE ",
            $users,
            " GROUP BY user_id, trace_id) r \
             LEFT JOIN settled_transaction t ON t.user_id = r.user_id AND t.trace_id = r.trace_id \
             WHERE COALESCE(t.refunded_free, -1) <> r.free OR COALESCE(t.refunded_paid, -1) <> r.paid \
             OR COALESCE(t.refunded_amount, -1) <> r.amount OR r.free > t.free_count OR r.paid > t.paid_count \
             OR r.amount > t.amount GROUP BY r.user_id"
        )
    };
}

/// The users whose charges differ from their refunds, on both databases.
pub const WRONG_CHARGES: &str = wrong_charges!("user_id BETWEEN ? AND ?");
/// The same, of a list of users.
pub const WRONG_CHARGES_OF: &str = wrong_charges!("user_id IN ({users})");

/// The transactions that are not COMMITTED and have a charge, on both databases. None of them is archived.
pub const UNSETTLED: &str = "SELECT user_id, trace_id, status, free_count, paid_count, amount FROM billing_transaction \
    WHERE status IN ('PENDING', 'RELEASED', 'EXPIRED') AND (free_count <> 0 OR paid_count <> 0 OR amount <> 0) \
    AND user_id BETWEEN ? AND ?";

/// The number of charges whose sum is not that of their refunds.
pub fn note_wrong_charges(evidence: &mut Evidence, row: &impl Columns) -> Result<(), StoreError> {
    evidence.refunds.wrong_charges = row.number(1)?;
    Ok(())
}

/// Service, month, used and held units, and whether the row is unreadable.
pub fn note_quota(evidence: &mut Evidence, row: &impl Columns) -> Result<(), StoreError> {
    note_if_unreadable(evidence, row, 5, "quota")?;
    let (used, held) = (row.number(3)?, row.number(4)?);
    if used != 0 {
        evidence.used_quotas.insert(month_of(row)?, used);
    }
    if held != 0 {
        evidence.held_quotas.insert(month_of(row)?, held);
    }
    Ok(())
}

/// Service, month, used units.
pub fn note_used_quota(evidence: &mut Evidence, row: &impl Columns) -> Result<(), StoreError> {
    evidence.used_quotas.insert(month_of(row)?, row.number(3)?);
    Ok(())
}

/// Service, month, units of the opening entry.
pub fn note_opened_quota(evidence: &mut Evidence, row: &impl Columns) -> Result<(), StoreError> {
    evidence.opened_quotas.insert(month_of(row)?, row.number(3)?);
    Ok(())
}

/// Service, month, held units.
pub fn note_held_quota(evidence: &mut Evidence, row: &impl Columns) -> Result<(), StoreError> {
    evidence.held_quotas.insert(month_of(row)?, row.number(3)?);
    Ok(())
}

/// Service, month, held units and amount of the reservations.
pub fn note_reservations(evidence: &mut Evidence, row: &impl Columns) -> Result<(), StoreError> {
    let free = row.number(3)?;
    if free > 0 {
        evidence.reserved_quotas.insert(month_of(row)?, free);
    }
    evidence.reserved = evidence.reserved.plus(row.money(4)?);
    Ok(())
}

/// The alerts of a user. The configured ones replace a text that cannot be read.
pub fn note_alerts(_: &mut Evidence, row: &impl Columns) -> Result<(), StoreError> {
    ensure_alerts(row.optional_text(1)?)
}

fn ensure_alerts(stored: Option<String>) -> Result<(), StoreError> {
    let is_readable = stored.is_none_or(|text| Alerts::from_stored(&text).is_some());
    if is_readable { Ok(()) } else { Err(corrupt("alerts")) }
}

/// The number of rows that the service cannot read, in column `index`.
fn note_if_unreadable(evidence: &mut Evidence, row: &impl Columns, index: usize, what: &str) -> Result<(), StoreError> {
    if row.number::<i64>(index)? != 0 {
        evidence.unreadable.push(what.to_owned());
    }
    Ok(())
}

/// The description of a row that the service cannot read.
pub fn note_unreadable(evidence: &mut Evidence, row: &impl Columns) -> Result<(), StoreError> {
    evidence.unreadable.push(row.text(1)?);
    Ok(())
}

pub fn add_unreadable(evidence: &mut Evidence, count: u64) {
    evidence.unreadable.add_further(count);
}

pub fn add_unsettled(evidence: &mut Evidence, count: u64) {
    evidence.unsettled.add_further(count);
}

/// An API key, and the description of its unreadable quota. A key that is no text has the name `?`,
/// so that it does not end the audit.
pub fn unreadable_key_quota_of(row: &impl Columns) -> (ApiKeyId, String) {
    let key = row.text(0).unwrap_or_else(|_| "?".into());
    (ApiKeyId::from_stored(key), row.text(1).unwrap_or_else(|why| why.to_string()))
}

/// A user, with a trace id, and units and amount of the transaction and of its records.
pub fn differing_transaction_of(row: &impl Columns) -> Result<(UserId, DifferingTransaction), StoreError> {
    let (transaction, records) = (charge_book_of(row, 2)?, charge_book_of(row, 5)?);
    Ok((user_of(row)?, DifferingTransaction { trace: row.text(1)?, transaction, records }))
}

fn charge_book_of(row: &impl Columns, first: usize) -> Result<ChargeBook, StoreError> {
    Ok(ChargeBook { free: row.number(first)?, paid: row.number(first + 1)?, amount: row.money(first + 2)? })
}

/// A trace id and its status, with the units and the amount of a charge that it should not have.
pub fn note_unsettled(evidence: &mut Evidence, row: &impl Columns) -> Result<(), StoreError> {
    evidence.unsettled.push((row.text(1)?, row.text(2)?, charge_book_of(row, 3)?));
    Ok(())
}

/// The number of reservations that no sweep would find.
pub fn note_stranded(evidence: &mut Evidence, row: &impl Columns) -> Result<(), StoreError> {
    evidence.stranded = row.number(1)?;
    Ok(())
}

/// Service, month, free units and amount of the records; units and amount of those that belong to
/// transactions; units and amount of the records of refunds.
pub fn note_records(evidence: &mut Evidence, row: &impl Columns) -> Result<(), StoreError> {
    let free: i64 = row.number(3)?;
    if free != 0 {
        *evidence.free_units.entry(month_of(row)?).or_default() += free;
    }
    evidence.charged = evidence.charged.plus(row.money(4)?);
    evidence.recorded_count += row.number::<i64>(5)?;
    evidence.recorded_amount = evidence.recorded_amount.plus(row.money(6)?);
    evidence.refunds.recorded_count += row.number::<i64>(7)?;
    evidence.refunds.recorded_amount = evidence.refunds.recorded_amount.plus(row.money(8)?);
    Ok(())
}
