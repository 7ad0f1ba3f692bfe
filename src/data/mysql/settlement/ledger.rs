//! One settlement transaction: lock and load, decide, write, commit.

use std::{collections::BTreeSet, sync::atomic::Ordering::Relaxed};

use async_trait::async_trait;
use sqlx::{MySqlConnection, Row, mysql::MySqlRow};

use super::transactions::{self, insert_charges, transaction_of, uuid_of, write_reservations};
use crate::{
    biz::{
        settlement::{
            keys::Keys,
            ledger::{Ledger, SettledBatch},
            posting::{Adjusted, AdjustmentContent, Batch, Outcome, Posting},
            rule::{self, NewRecord, State, UsageDelta, UsageKey, Writes},
        },
        values::{
            calendar::BillingTime,
            error::StoreError,
            ids::{AdjustmentId, TraceId, UserId},
        },
    },
    data::{
        error::store_error,
        mysql::{
            MySqlStore,
            account::accounts,
            limits::{caps, key_quotas},
            recharge,
            row::{money, text},
            statement::{Row as StatementRow, Statement},
        },
    },
};

/// Which transactions are looked up before the rule decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lookup {
    /// Those that end, which must be there. The others are taken for new: when one is
    /// not, its insert fails.
    Ending,
    All,
}

#[async_trait]
impl Ledger for MySqlStore {
    /// Two round trips: begin, lock and load; write and commit. On every way out but
    /// a clean one the connection is closed, and the server rolls back.
    async fn settle(&self, batch: &Batch) -> Result<SettledBatch, StoreError> {
        let keys = Keys::of(batch);
        let mut connection = self.writer.take().await?;
        let lookup_all = self.lookup_all.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
        let mut lookup = if lookup_all { Lookup::All } else { Lookup::Ending };
        let mut created = BTreeSet::new();
        // Three times at most: accounts that were opened stay open, and what all
        // lookups find is not inserted.
        for _ in 0..3 {
            let mut state = load(&mut connection, batch, &keys, lookup).await?;
            let unopened = state.unopened(&keys, batch.at.month);
            if !unopened.is_empty() {
                // A missing row can't be locked, and inserting one out of order here
                // could deadlock with another batch: let go, open, begin again.
                Statement::new("ROLLBACK").execute(&mut connection).await?;
                created = unopened.iter().filter(|user| !state.balances.contains_key(user)).cloned().collect();
                accounts::open(&mut connection, &unopened, batch.at, &batch.catalog).await?;
                continue;
            }
            state.created = created.clone();
            let (outcomes, writes) = rule::settle(batch, state);
            let sure = lookup == Lookup::All || !refused_as_new(batch, &outcomes);
            let settled = match sure {
                true if writes.is_empty() => Statement::new("ROLLBACK").execute_unless_taken(&mut connection).await?,
                true => write_and_commit(&writes, batch.at).execute_unless_taken(&mut connection).await?,
                false => false,
            };
            if settled {
                connection.give_back();
                return Ok(writes.into_settlement(outcomes));
            }
            Statement::new("ROLLBACK").execute(&mut connection).await?;
            self.lookup_all.store(self.lookup_all_batches, Relaxed);
            lookup = Lookup::All;
        }
        Err(StoreError::Conflict("another process settles the same ids".into()))
    }
}

/// Whether a posting that may have passed before was refused unsought: then its first
/// outcome stands.
fn refused_as_new(batch: &Batch, outcomes: &[Outcome]) -> bool {
    let is_unsought = |posting: &Posting| matches!(posting, Posting::Charge(_) | Posting::Reserve(_));
    let mut settled = batch.postings.iter().zip(outcomes);
    settled.any(|(posting, outcome)| is_unsought(posting) && matches!(outcome, Outcome::Refused(_)))
}

/// Begins, locks the accounts, and finds which ids of the batch are known already.
async fn load(
    connection: &mut MySqlConnection,
    batch: &Batch,
    keys: &Keys<'_>,
    lookup: Lookup,
) -> Result<State, StoreError> {
    let transactions = match lookup {
        Lookup::Ending => &keys.ending,
        Lookup::All => &keys.transactions,
    };
    let mut statement = Statement::new("START TRANSACTION; ");
    accounts::lock(&mut statement, keys, batch.at.month);
    if !keys.ending.is_empty() {
        accounts::read_held_quotas(&mut statement, keys);
    }
    if !transactions.is_empty() {
        statement
            .push("SELECT ")
            .push(transactions::COLUMNS)
            .push(" FROM billing_transaction WHERE (user_id, trace_id) IN (")
            .pairs(transactions)
            .push("); ");
    }
    if !keys.adjustments.is_empty() {
        statement
            .push(
                "SELECT user_id, adjustment_id, amount, reason, operator, request_id, balance_after, created_at \
                 FROM balance_adjustment WHERE (user_id, adjustment_id) IN (",
            )
            .pairs(&keys.adjustments)
            .push("); ");
    }

    if !keys.orders.is_empty() {
        recharge::lock(&mut statement, keys);
    }
    if !keys.api_keys.is_empty() {
        key_quotas::lock(&mut statement, keys);
    }
    if !keys.ending.is_empty() {
        key_quotas::lock_of_ending(&mut statement, keys);
    }

    // In the order of the statements above, the first of which has no rows.
    let mut sets = statement.fetch(connection).await?.into_iter().skip(1);
    let mut next = || sets.next().ok_or_else(|| StoreError::Failed("a statement had no result".into()));
    let mut state = State::default();
    accounts::add_locked(&mut state, batch.at.month, &next()?)?;
    if !keys.ending.is_empty() {
        accounts::add_held_quotas(&mut state, &next()?)?;
    }
    if !transactions.is_empty() {
        for row in &next()? {
            let known = transaction_of(row)?;
            // Of an account that another process opened a moment ago, and that is not locked.
            if state.balances.contains_key(&known.user) {
                state.transactions.insert((known.user.clone(), known.trace.clone()), known);
            }
        }
    }
    if !keys.adjustments.is_empty() {
        for row in &next()? {
            let settled = adjusted_of(row)?;
            state.adjustments.insert((settled.user.clone(), settled.id.clone()), settled);
        }
    }
    if !keys.orders.is_empty() {
        recharge::add_locked(&mut state, &next()?, &next()?)?;
    }
    if !keys.api_keys.is_empty() {
        key_quotas::add(&mut state.key_quotas, &next()?)?;
    }
    if !keys.ending.is_empty() {
        key_quotas::add(&mut state.key_quotas, &next()?)?;
    }
    Ok(state)
}

/// Writes what the rule decided, one statement a table. The commit comes last and is
/// only reached when all before it passed.
fn write_and_commit(writes: &Writes, at: BillingTime) -> Statement {
    let mut statement = Statement::new("");
    if !writes.charges.is_empty() {
        insert_charges(&mut statement, &writes.charges);
    }
    if !writes.reservations.is_empty() {
        write_reservations(&mut statement, &writes.reservations);
    }
    if !writes.records.is_empty() {
        insert_records(&mut statement, &writes.records);
        add_usage(&mut statement, &writes.usage);
    }
    if !writes.quotas.is_empty() {
        accounts::set_quotas(&mut statement, &writes.quotas);
    }
    if !writes.adjustments.is_empty() {
        insert_adjustments(&mut statement, &writes.adjustments);
    }
    if !writes.requests.is_empty() {
        caps::set_used(&mut statement, &writes.requests, at);
    }
    if !writes.key_quotas.is_empty() {
        key_quotas::set_used(&mut statement, &writes.key_quotas, at);
    }
    recharge::update(&mut statement, &writes.orders);
    if !writes.balances.is_empty() {
        accounts::set_balances(&mut statement, &writes.balances);
    }
    statement.push("COMMIT");
    statement
}

fn insert_records(statement: &mut Statement, records: &[NewRecord]) {
    statement
        .push(
            "INSERT INTO billing_record \
             (billing_record_id, user_id, service_name, type, amount, count, created_at, usage_date, trace_id) VALUES ",
        )
        .rows(records, |row, NewRecord { user, day, record }| {
            row.text(&record.id)
                .text(user.as_str())
                .text(record.service.as_str())
                .number(record.kind as i32)
                .money(record.amount)
                .number(record.count)
                .instant(record.created_at)
                .day(*day)
                .optional(record.trace.as_ref().map(TraceId::as_str), StatementRow::text);
        })
        .push("; ");
}

fn add_usage(statement: &mut Statement, usage: &[(UsageKey, UsageDelta)]) {
    statement
        .push(
            "INSERT INTO usage_daily \
             (user_id, usage_date, service_name, free_count, paid_count, amount, free_records, paid_records) VALUES ",
        )
        .rows(usage, |row, ((user, day, service), delta)| {
            row.text(user.as_str())
                .day(*day)
                .text(service.as_str())
                .number(delta.totals.free_count)
                .number(delta.totals.paid_count)
                .money(delta.totals.amount)
                .number(delta.free_records)
                .number(delta.paid_records);
        })
        .push(
            " ON DUPLICATE KEY UPDATE free_count = free_count + VALUES(free_count), \
             paid_count = paid_count + VALUES(paid_count), amount = amount + VALUES(amount), \
             free_records = free_records + VALUES(free_records), paid_records = paid_records + VALUES(paid_records); ",
        );
}

fn insert_adjustments(statement: &mut Statement, adjustments: &[Adjusted]) {
    statement
        .push(
            "INSERT INTO balance_adjustment \
             (user_id, adjustment_id, amount, reason, operator, request_id, balance_after, created_at) VALUES ",
        )
        .rows(adjustments, |row, adjusted| {
            row.text(adjusted.user.as_str())
                .text(adjusted.id.as_str())
                .money(adjusted.content.amount)
                .text(&adjusted.content.reason)
                .text(&adjusted.content.operator)
                .text(&adjusted.request.to_string())
                .money(adjusted.balance_after)
                .instant(adjusted.created_at);
        })
        .push("; ");
}

fn adjusted_of(row: &MySqlRow) -> Result<Adjusted, StoreError> {
    Ok(Adjusted {
        user: UserId::from_stored(text(row, 0)?),
        id: AdjustmentId::from_stored(text(row, 1)?),
        content: AdjustmentContent { amount: money(row, 2)?, reason: text(row, 3)?, operator: text(row, 4)? },
        request: uuid_of(text(row, 5)?)?,
        balance_after: money(row, 6)?,
        created_at: row.try_get(7).map_err(store_error)?,
    })
}
