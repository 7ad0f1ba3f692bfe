//! One settlement transaction: lock and load, decide, write, commit.

use async_trait::async_trait;
use sqlx::{MySqlConnection, Row, mysql::MySqlRow};

use super::{
    MySqlStore, accounts, money,
    statement::{Row as StatementRow, Statement},
    store_error, text,
    transactions::{self, insert_charges, transaction_of, uuid_of, write_reservations},
};
use crate::biz::{
    calendar::BillingTime,
    error::StoreError,
    ids::{AdjustmentId, TraceId, UserId},
    settlement::{
        keys::Keys,
        ledger::Ledger,
        posting::{Adjusted, AdjustmentContent, Batch, Outcome},
        rule::{self, NewRecord, State, UsageDelta, UsageKey, Writes},
    },
};

#[async_trait]
impl Ledger for MySqlStore {
    /// Two round trips: begin, lock and load; write and commit. On every other way
    /// out the transaction is rolled back as the connection returns to its pool.
    async fn settle(&self, batch: &Batch) -> Result<Vec<Outcome>, StoreError> {
        let keys = Keys::of(batch);
        let mut created = Default::default();
        // Twice at most: an account that was opened stays open.
        for _ in 0..2 {
            let mut connection = self.writer.acquire().await.map_err(store_error)?;
            let mut state = load(&mut connection, batch, &keys).await?;
            let unopened = state.unopened(&keys, batch.at.month);
            if !unopened.is_empty() {
                // A missing row can't be locked, and inserting one out of order here
                // could deadlock with another batch: let go, open, begin again.
                Statement::new("ROLLBACK").execute(&mut connection).await?;
                created = unopened.iter().filter(|user| !state.balances.contains_key(user)).cloned().collect();
                accounts::open(&mut connection, &unopened, batch.at, &batch.catalog).await?;
                continue;
            }
            state.created = created;
            let (outcomes, writes) = rule::settle(batch, state);
            if !writes.is_empty() {
                write_and_commit(&writes, batch.at).execute(&mut connection).await?;
            }
            return Ok(outcomes);
        }
        Err(StoreError::Failed("accounts are not there after opening them".into()))
    }
}

/// Begins, locks the accounts, and finds which ids of the batch are known already.
async fn load(connection: &mut MySqlConnection, batch: &Batch, keys: &Keys<'_>) -> Result<State, StoreError> {
    let mut statement = Statement::new("START TRANSACTION; ");
    accounts::lock_balances(&mut statement, keys);
    accounts::read_quotas(&mut statement, keys, batch.at.month);
    if !keys.transactions.is_empty() {
        statement
            .push("SELECT ")
            .push(transactions::COLUMNS)
            .push(" FROM billing_transaction WHERE (user_id, trace_id) IN (")
            .pairs(&keys.transactions)
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

    // In the order of the statements above, the first of which has no rows.
    let mut sets = statement.fetch(connection).await?.into_iter().skip(1);
    let mut next = || sets.next().ok_or_else(|| StoreError::Failed("a statement had no result".into()));
    let mut state = State { balances: accounts::balances_of(&next()?)?, ..State::default() };
    for _ in 0..accounts::quota_statements(keys) {
        accounts::add_quotas(&mut state.quotas, &next()?)?;
    }
    if !keys.transactions.is_empty() {
        for row in &next()? {
            let known = transaction_of(row)?;
            state.transactions.insert((known.user.clone(), known.trace.clone()), known);
        }
    }
    if !keys.adjustments.is_empty() {
        for row in &next()? {
            let settled = adjusted_of(row)?;
            state.adjustments.insert((settled.user.clone(), settled.id.clone()), settled);
        }
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
        accounts::set_quotas(&mut statement, &writes.quotas, at);
    }
    if !writes.adjustments.is_empty() {
        insert_adjustments(&mut statement, &writes.adjustments);
    }
    accounts::set_balances(&mut statement, &writes.balances, at);
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
