//! One settlement transaction: lock and load, decide, write, commit.

use std::collections::BTreeSet;

use async_trait::async_trait;
use sqlx::{MySqlConnection, Row, mysql::MySqlRow};
use uuid::Uuid;

use super::{
    MySqlStore, accounts, corrupt, money, number, optional_money, optional_text,
    statement::{Row as StatementRow, Statement},
    store_error, text,
};
use crate::biz::{
    calendar::BillingTime,
    error::StoreError,
    ids::{AdjustmentId, ApiKeyId, ModelName, ServiceName, TraceId, UserId},
    record::Usage,
    settlement::{
        ledger::Ledger,
        posting::{Adjusted, AdjustmentContent, Batch, ChargeContent, Outcome, Posting, Transaction},
        rule::{self, State, Writes},
    },
};

#[async_trait]
impl Ledger for MySqlStore {
    /// Two round trips: begin, lock and load; write and commit. On every other way
    /// out the transaction is rolled back as the connection returns to its pool.
    async fn settle(&self, batch: &Batch) -> Result<Vec<Outcome>, StoreError> {
        let users: BTreeSet<&UserId> = batch.postings.iter().map(Posting::user).collect();
        let users: Vec<&UserId> = users.into_iter().collect();
        let mut created = BTreeSet::new();
        // Twice at most: an account that was opened stays open.
        for _ in 0..2 {
            let mut connection = self.writer.acquire().await.map_err(store_error)?;
            let mut state = load(&mut connection, batch, &users).await?;
            let unopened = state.unopened(users.iter().copied(), &batch.catalog);
            if !unopened.is_empty() {
                // A missing row can't be locked, and inserting one out of order here
                // could deadlock with another batch: let go, open, begin again.
                Statement::new("ROLLBACK").execute(&mut connection).await?;
                created = unopened.iter().filter(|user| !state.accounts.contains_key(user)).cloned().collect();
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

/// Begins, locks the accounts, and finds which ids of the batch are settled already.
async fn load(connection: &mut MySqlConnection, batch: &Batch, users: &[&UserId]) -> Result<State, StoreError> {
    let (mut traces, mut adjustments) = (BTreeSet::new(), BTreeSet::new());
    for posting in &batch.postings {
        match posting {
            Posting::Open(_) => false,
            Posting::Charge(charge) => traces.insert((charge.user.as_str(), charge.trace.as_str())),
            Posting::Adjust(adjustment) => adjustments.insert((adjustment.user.as_str(), adjustment.id.as_str())),
        };
    }
    let pair = |row: &mut StatementRow<'_>, (user, id): &(&str, &str)| {
        row.text(user).text(id);
    };
    let mut statement = Statement::new("START TRANSACTION; ");
    accounts::lock_accounts(&mut statement, users, batch.at.month);
    if !traces.is_empty() {
        statement
            .push(
                "SELECT user_id, trace_id, service_name, count, cost, api_key_id, model, input_tokens, output_tokens, \
                 cached_input_tokens, free_count, paid_count, amount, record_id, balance_after, free_remaining_after, \
                 created_at FROM billing_transaction WHERE (user_id, trace_id) IN (",
            )
            .rows(&traces, pair)
            .push("); ");
    }
    if !adjustments.is_empty() {
        statement
            .push(
                "SELECT user_id, adjustment_id, amount, reason, operator, request_id, balance_after, created_at \
                 FROM balance_adjustment WHERE (user_id, adjustment_id) IN (",
            )
            .rows(&adjustments, pair)
            .push("); ");
    }

    // In the order of the statements above, the first of which has no rows.
    let mut sets = statement.fetch(connection).await?.into_iter().skip(1);
    let mut next = || sets.next().ok_or_else(|| StoreError::Failed("a statement had no result".into()));
    let (balances, quotas) = (next()?, next()?);
    let mut state = State { accounts: accounts::accounts_of(&balances, &quotas)?, ..State::default() };
    if !traces.is_empty() {
        for row in &next()? {
            let settled = transaction_of(row)?;
            state.transactions.insert((settled.user.clone(), settled.trace.clone()), settled);
        }
    }
    if !adjustments.is_empty() {
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
    if !writes.transactions.is_empty() {
        insert_transactions(&mut statement, &writes.transactions);
        insert_records(&mut statement, writes, at);
        add_usage(&mut statement, writes, at);
    }
    if !writes.quotas.is_empty() {
        set_quotas(&mut statement, writes, at);
    }
    if !writes.adjustments.is_empty() {
        insert_adjustments(&mut statement, &writes.adjustments);
    }
    set_balances(&mut statement, writes, at);
    statement.push("COMMIT");
    statement
}

fn insert_transactions(statement: &mut Statement, transactions: &[Transaction]) {
    statement
        .push(
            "INSERT INTO billing_transaction (user_id, trace_id, status, service_name, count, cost, api_key_id, model, \
             input_tokens, output_tokens, cached_input_tokens, free_count, paid_count, amount, record_id, \
             balance_after, free_remaining_after, created_at) VALUES ",
        )
        .rows(transactions, |row, settled| {
            let content = &settled.content;
            row.text(settled.user.as_str())
                .text(settled.trace.as_str())
                .text("COMMITTED")
                .text(content.service.as_str())
                .number(content.count)
                .optional(content.cost, StatementRow::money)
                .optional(content.api_key.as_ref().map(ApiKeyId::as_str), StatementRow::text)
                .optional(content.model.as_ref().map(ModelName::as_str), StatementRow::text)
                .optional(content.usage.map(|usage| usage.input_tokens), StatementRow::number)
                .optional(content.usage.map(|usage| usage.output_tokens), StatementRow::number)
                .optional(content.usage.map(|usage| usage.cached_input_tokens), StatementRow::number)
                .number(settled.free)
                .number(settled.paid)
                .money(settled.amount)
                .text(&settled.record_id.to_string())
                .money(settled.balance_after)
                .number(settled.free_remaining_after)
                .instant(settled.created_at);
        })
        .push("; ");
}

fn insert_records(statement: &mut Statement, writes: &Writes, at: BillingTime) {
    statement
        .push(
            "INSERT INTO billing_record \
             (billing_record_id, user_id, service_name, type, amount, count, created_at, usage_date, trace_id) VALUES ",
        )
        .rows(&writes.records, |row, (user, record)| {
            row.text(&record.id)
                .text(user.as_str())
                .text(record.service.as_str())
                .number(record.kind as i32)
                .money(record.amount)
                .number(record.count)
                .instant(record.created_at)
                .day(at.day)
                .optional(record.trace.as_ref().map(TraceId::as_str), StatementRow::text);
        })
        .push("; ");
}

fn add_usage(statement: &mut Statement, writes: &Writes, at: BillingTime) {
    statement
        .push(
            "INSERT INTO usage_daily \
             (user_id, usage_date, service_name, free_count, paid_count, amount, free_records, paid_records) VALUES ",
        )
        .rows(&writes.usage, |row, delta| {
            row.text(delta.user.as_str())
                .day(at.day)
                .text(delta.service.as_str())
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

/// The rows are there and locked: the insert is only a way to update many rows to
/// different values in one statement, and its other columns are never used.
fn set_balances(statement: &mut Statement, writes: &Writes, at: BillingTime) {
    statement
        .push("INSERT INTO user_balance (user_balance_id, user_id, balance, version, updated_at) VALUES ")
        .rows(&writes.balances, |row, (user, balance, version)| {
            row.text("").text(user.as_str()).money(*balance).number(*version).instant(at.utc);
        })
        .push(
            " ON DUPLICATE KEY UPDATE balance = VALUES(balance), version = VALUES(version), \
             updated_at = VALUES(updated_at); ",
        );
}

/// As [`set_balances`].
fn set_quotas(statement: &mut Statement, writes: &Writes, at: BillingTime) {
    let month = at.month.to_string();
    statement
        .push(
            "INSERT INTO free_quota \
             (free_quota_id, user_id, reset_month, service_name, total_quota, used_quota, updated_at) VALUES ",
        )
        .rows(&writes.quotas, |row, (user, quota)| {
            row.text("").text(user.as_str()).text(&month).text(quota.service.as_str());
            row.number(quota.total).number(quota.used).instant(at.utc);
        })
        .push(" ON DUPLICATE KEY UPDATE used_quota = VALUES(used_quota), updated_at = VALUES(updated_at); ");
}

fn transaction_of(row: &MySqlRow) -> Result<Transaction, StoreError> {
    Ok(Transaction {
        user: UserId::from_stored(text(row, 0)?),
        trace: TraceId::from_stored(text(row, 1)?),
        content: ChargeContent {
            service: ServiceName::from_stored(text(row, 2)?),
            count: number(row, 3)?,
            cost: optional_money(row, 4)?,
            api_key: optional_text(row, 5)?.map(ApiKeyId::from_stored),
            model: optional_text(row, 6)?.map(ModelName::from_stored),
            usage: usage_of(row, 7)?,
        },
        free: number(row, 10)?,
        paid: number(row, 11)?,
        amount: money(row, 12)?,
        record_id: uuid_of(text(row, 13)?)?,
        balance_after: money(row, 14)?,
        free_remaining_after: number(row, 15)?,
        created_at: row.try_get(16).map_err(store_error)?,
    })
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

fn uuid_of(text: String) -> Result<Uuid, StoreError> {
    text.parse().map_err(|_| corrupt("id"))
}

/// Three token columns from `first` on; all of them NULL when there was no usage.
pub(super) fn usage_of(row: &MySqlRow, first: usize) -> Result<Option<Usage>, StoreError> {
    let known: Option<i64> = row.try_get(first).map_err(store_error)?;
    if known.is_none() {
        return Ok(None);
    }
    Ok(Some(Usage {
        input_tokens: number(row, first)?,
        output_tokens: number(row, first + 1)?,
        cached_input_tokens: number(row, first + 2)?,
    }))
}
