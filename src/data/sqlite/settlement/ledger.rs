//! One settlement transaction: load, decide, write, commit.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use async_trait::async_trait;
use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::{refunds, transactions};
use crate::{
    biz::{
        settlement::{
            audit_events,
            keys::Keys,
            ledger::{Gather, Ledger, SettledBatch},
            lock::{LeftOut, Lock},
            lookup::{FullLookups, Lookup, refused_as_new},
            posting::{Adjusted, Batch},
            rule::{self, NewRecord, State, UsageDelta, UsageKey, Writes},
        },
        values::{
            calendar::BillingTime,
            error::StoreError,
            ids::{PlanName, TraceId, UserId},
        },
    },
    data::{
        rows::transaction::{adjusted_of, adjustment_columns},
        sqlite::{
            SqliteStore,
            account::accounts,
            audit_trail, events,
            limits::{caps, key_quotas},
            recharge, unapplied,
            writer::{commit, found, is_taken, writer_error},
        },
    },
};

#[async_trait]
impl Ledger for SqliteStore {
    /// There is one writer, so no account is ever locked by another settlement.
    async fn settle(&self, batch: &Batch) -> Result<SettledBatch, StoreError> {
        let (batch, full_lookups) = (batch.clone(), self.full_lookups.clone());
        self.writer.run(move |connection| settle(connection, &batch, &full_lookups)).await
    }

    async fn settle_behind(&self, _: &Lock, gather: &Gather) -> Result<SettledBatch, StoreError> {
        let batch = gather();
        if batch.postings.is_empty() {
            return Ok(SettledBatch::default());
        }
        self.settle(&batch).await
    }
}

fn settle(connection: &mut Connection, batch: &Batch, full_lookups: &FullLookups) -> Result<SettledBatch, StoreError> {
    let keys = Keys::of(batch);
    if full_lookups.next_lookup() == Lookup::Ending {
        if let Some(settled) = settle_with(connection, batch, &keys, Lookup::Ending)? {
            return Ok(settled);
        }
        full_lookups.begin();
    }
    let settled = settle_with(connection, batch, &keys, Lookup::All)?;
    settled.ok_or_else(|| StoreError::Failed("a full look-up missed an id".into()))
}

/// Settles a batch in one transaction. `None` if an id exists that was not looked up; nothing is written then.
///
/// Another attempt begins another transaction. With a savepoint, SQLite would copy each page before its first change.
fn settle_with(
    connection: &mut Connection,
    batch: &Batch,
    keys: &Keys<'_>,
    lookup: Lookup,
) -> Result<Option<SettledBatch>, StoreError> {
    // Immediate takes the write lock at the first statement. A transaction that takes it later
    // would fail at once instead of waiting.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(writer_error)?;
    let Loaded { state, left_out, has_opened } = load(&transaction, batch, keys, lookup)?;
    let batch = if left_out.is_empty() { Cow::Borrowed(batch) } else { Cow::Owned(batch.without(&left_out)) };
    let (outcomes, writes) = rule::settle(&batch, state);
    if lookup == Lookup::Ending {
        let refused = refused_as_new(&batch, &outcomes);
        if transactions::exist(&transaction, refused).map_err(writer_error)? {
            transaction.rollback().map_err(writer_error)?;
            return Ok(None);
        }
    }
    if writes.is_empty() && !has_opened {
        transaction.rollback().map_err(writer_error)?;
        return Ok(Some(writes.into_settlement(outcomes, left_out)));
    }
    match write(&transaction, &writes, batch.at) {
        Err(error) if lookup == Lookup::Ending && is_taken(&error) => {
            transaction.rollback().map_err(writer_error)?;
            return Ok(None);
        }
        written => written.map_err(writer_error)?,
    }
    commit(transaction)?;
    Ok(Some(writes.into_settlement(outcomes, left_out)))
}

/// The state that a batch is decided on, and the accounts that it leaves out.
struct Loaded {
    state: State,
    left_out: LeftOut,
    /// Whether the transaction has opened accounts.
    has_opened: bool,
}

fn load(transaction: &Transaction<'_>, batch: &Batch, keys: &Keys<'_>, lookup: Lookup) -> Result<Loaded, StoreError> {
    let (mut state, mut left_out) = (State::default(), LeftOut::default());
    accounts::load_accounts(transaction, keys, batch.at.month, (&mut state, &mut left_out))?;
    let mut unopened = state.unopened(keys, batch.at.month);
    unopened.retain(|user| !left_out.contains(user));
    if !unopened.is_empty() {
        state.created = unopened.iter().filter(|user| !state.balances.contains_key(user)).cloned().collect();
        let events = audit_events::of_openings(batch, &state.created);
        let plans = plans_of(&state, &unopened);
        let new = accounts::NewAccounts { users: &unopened, plans: &plans, events: &events, at: batch.at };
        accounts::insert_missing(transaction, new, &batch.catalog).map_err(writer_error)?;
        accounts::load_accounts(transaction, keys, batch.at.month, (&mut state, &mut left_out))?;
    }
    transactions::load(transaction, lookup.transactions(keys), (&mut state, &mut left_out))?;
    let is_opened_late = load_further_quotas(transaction, batch, keys, (&mut state, &mut left_out))?;
    load_adjustments(transaction, keys, (&mut state, &mut left_out))?;
    refunds::load(transaction, keys, (&mut state, &mut left_out))?;
    state.audit_events = audit_trail::stored(transaction, &keys.audit_events)?;
    state.events = events::stored(transaction, &keys.events)?;
    recharge::load(transaction, batch, keys, (&mut state, &mut left_out))?;
    unapplied::load(transaction, batch, (&mut state, &mut left_out))?;
    caps::load(transaction, keys, (&mut state, &mut left_out))?;
    key_quotas::load(transaction, batch, (&mut state, &mut left_out))?;
    Ok(Loaded { state, left_out, has_opened: !unopened.is_empty() || is_opened_late })
}

/// Loads the quotas that only the loaded transactions name, and opens the accounts that lack one.
/// Returns whether it has opened any. Nearly every batch needs none.
fn load_further_quotas(
    transaction: &Transaction<'_>,
    batch: &Batch,
    keys: &Keys<'_>,
    (state, left_out): (&mut State, &mut LeftOut),
) -> Result<bool, StoreError> {
    accounts::load_quotas(transaction, &state.further_quotas(batch, keys), (state, left_out))?;
    let unopened = state.unopened_further(batch, keys);
    if !unopened.is_empty() {
        let (plans, events) = (plans_of(state, &unopened), BTreeMap::new());
        let new = accounts::NewAccounts { users: &unopened, plans: &plans, events: &events, at: batch.at };
        accounts::insert_missing(transaction, new, &batch.catalog).map_err(writer_error)?;
        accounts::load_quotas(transaction, &state.further_quotas(batch, keys), (state, left_out))?;
    }
    Ok(!unopened.is_empty())
}

/// The plans of those users that have an account and a plan.
fn plans_of(state: &State, users: &BTreeSet<UserId>) -> BTreeMap<UserId, PlanName> {
    users.iter().filter_map(|user| Some((user.clone(), state.balances.get(user)?.plan?))).collect()
}

/// Finds which adjustments of the batch are settled already.
fn load_adjustments(
    transaction: &Transaction<'_>,
    keys: &Keys<'_>,
    (state, left_out): (&mut State, &mut LeftOut),
) -> Result<(), StoreError> {
    let mut find = transaction
        .prepare_cached(concat!(
            "SELECT ",
            adjustment_columns!(),
            " FROM balance_adjustment WHERE user_id = ? AND adjustment_id = ?"
        ))
        .map_err(writer_error)?;
    for &(user, id) in &keys.adjustments {
        let settled = found(&mut find, [user.as_str(), id.as_str()], |row| adjusted_of(row));
        if let Some(settled) = left_out.decoded(user, "balance_adjustment", settled)?.flatten() {
            state.adjustments.insert((user.clone(), id.clone()), settled);
        }
    }
    Ok(())
}

/// Writes the decision of the rule, table by table.
fn write(transaction: &Transaction<'_>, writes: &Writes, at: BillingTime) -> rusqlite::Result<()> {
    transactions::insert_charges(transaction, &writes.charges)?;
    transactions::write_reservations(transaction, &writes.reservations)?;
    insert_records(transaction, &writes.records)?;
    add_usage(transaction, &writes.usage)?;
    refunds::write(transaction, writes)?;
    accounts::set_quotas(transaction, &writes.quotas, at)?;
    insert_adjustments(transaction, &writes.adjustments)?;
    audit_trail::insert(transaction, &writes.audit_events)?;
    events::insert(transaction, &writes.events)?;
    recharge::update(transaction, &writes.orders)?;
    recharge::insert_refunds(transaction, &writes.new_order_refunds)?;
    recharge::update_refunds(transaction, &writes.order_refunds)?;
    unapplied::update(transaction, &writes.unapplied)?;
    caps::set_used(transaction, &writes.requests, at)?;
    key_quotas::set_used(transaction, &writes.key_quotas, at)?;
    accounts::set_balances(transaction, &writes.balances, at)?;
    accounts::set_statuses(transaction, &writes.statuses)?;
    accounts::set_watches(transaction, &writes.watches)?;
    accounts::set_plans(transaction, &writes.plans, at)
}

fn insert_records(transaction: &Transaction<'_>, records: &[NewRecord]) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached(
        "INSERT INTO billing_record \
         (billing_record_id, user_id, service_name, type, amount, count, trace_id, created_at, usage_date, late_of) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?;
    for NewRecord { user, day, record } in records {
        insert.execute(params![
            record.id,
            user.as_str(),
            record.service.as_str(),
            record.kind as i32,
            record.amount.micros(),
            record.count,
            record.trace.as_ref().map(TraceId::as_str),
            record.created_at.timestamp_micros(),
            day.to_string(),
            record.late_of.map(|month| month.to_string()),
        ])?;
    }
    Ok(())
}

fn add_usage(transaction: &Transaction<'_>, usage: &[(UsageKey, UsageDelta)]) -> rusqlite::Result<()> {
    let mut upsert = transaction.prepare_cached(
        "INSERT INTO usage_daily \
         (user_id, usage_date, service_name, free_count, paid_count, amount, free_records, paid_records) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?) \
         ON CONFLICT DO UPDATE SET free_count = free_count + excluded.free_count, \
         paid_count = paid_count + excluded.paid_count, amount = amount + excluded.amount, \
         free_records = free_records + excluded.free_records, paid_records = paid_records + excluded.paid_records",
    )?;
    for ((user, day, service), delta) in usage {
        upsert.execute(params![
            user.as_str(),
            day.to_string(),
            service.as_str(),
            delta.totals.free_count,
            delta.totals.paid_count,
            delta.totals.amount.micros(),
            delta.free_records,
            delta.paid_records,
        ])?;
    }
    Ok(())
}

fn insert_adjustments(transaction: &Transaction<'_>, adjustments: &[Adjusted]) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached(
        "INSERT INTO balance_adjustment \
         (user_id, adjustment_id, amount, reason, operator, request_id, balance_after, created_at) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )?;
    for adjusted in adjustments {
        insert.execute(params![
            adjusted.user.as_str(),
            adjusted.id.as_str(),
            adjusted.content.amount.micros(),
            adjusted.content.reason,
            adjusted.content.operator,
            adjusted.request.to_string(),
            adjusted.balance_after.micros(),
            adjusted.created_at.timestamp_micros(),
        ])?;
    }
    Ok(())
}
