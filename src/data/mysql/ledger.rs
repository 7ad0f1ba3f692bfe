//! One settlement transaction: lock and load, decide, write, commit.

use std::collections::BTreeSet;

use async_trait::async_trait;
use sqlx::{MySql, QueryBuilder, Row, mysql::MySqlRow};
use uuid::Uuid;

use super::{MySqlStore, accounts, corrupt, money, number, optional_money, optional_text, store_error, text};
use crate::biz::{
    account::AccountStore,
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

type Tx<'a> = sqlx::Transaction<'a, MySql>;

#[async_trait]
impl Ledger for MySqlStore {
    async fn settle(&self, batch: &Batch) -> Result<Vec<Outcome>, StoreError> {
        let users: BTreeSet<&UserId> = batch.postings.iter().map(Posting::user).collect();
        let users: Vec<&UserId> = users.into_iter().collect();
        // Twice at most: an account that was opened stays open.
        for _ in 0..2 {
            let mut transaction = self.writer.begin().await.map_err(store_error)?;
            let mut state = State {
                accounts: accounts::lock_accounts(&mut transaction, &users, batch.at.month).await?,
                ..State::default()
            };
            let unopened = state.unopened(users.iter().copied(), &batch.catalog);
            if !unopened.is_empty() {
                // A missing row can't be locked, and inserting one out of order here
                // could deadlock with another batch: let go, open, begin again.
                transaction.rollback().await.map_err(store_error)?;
                self.open(&unopened, batch.at, &batch.catalog).await?;
                continue;
            }
            load_settled(&mut transaction, batch, &mut state).await?;
            let (outcomes, writes) = rule::settle(batch, state);
            if writes.is_empty() {
                transaction.rollback().await.map_err(store_error)?;
                return Ok(outcomes);
            }
            write(&mut transaction, &writes, batch.at).await?;
            // Whatever goes wrong during a commit, its outcome is unknown.
            transaction.commit().await.map_err(|error| StoreError::Unavailable(format!("during commit: {error}")))?;
            return Ok(outcomes);
        }
        Err(StoreError::Failed("accounts are not there after opening them".into()))
    }
}

/// Finds which ids of the batch are settled already.
async fn load_settled(transaction: &mut Tx<'_>, batch: &Batch, state: &mut State) -> Result<(), StoreError> {
    let (mut traces, mut adjustments) = (BTreeSet::new(), BTreeSet::new());
    for posting in &batch.postings {
        match posting {
            Posting::Charge(charge) => traces.insert((&charge.user, charge.trace.as_str())),
            Posting::Adjust(adjustment) => adjustments.insert((&adjustment.user, adjustment.id.as_str())),
        };
    }
    if !traces.is_empty() {
        let mut query = QueryBuilder::<MySql>::new(
            "SELECT user_id, trace_id, service_name, count, cost, api_key_id, model, input_tokens, output_tokens, \
             cached_input_tokens, free_count, paid_count, amount, record_id, balance_after, free_remaining_after, \
             created_at FROM billing_transaction WHERE (user_id, trace_id) IN ",
        );
        push_pairs(&mut query, traces);
        for row in fetch(transaction, query).await? {
            let settled = transaction_of(&row)?;
            state.transactions.insert((settled.user.clone(), settled.trace.clone()), settled);
        }
    }
    if !adjustments.is_empty() {
        let mut query = QueryBuilder::<MySql>::new(
            "SELECT user_id, adjustment_id, amount, reason, operator, request_id, balance_after, created_at \
             FROM balance_adjustment WHERE (user_id, adjustment_id) IN ",
        );
        push_pairs(&mut query, adjustments);
        for row in fetch(transaction, query).await? {
            let settled = adjusted_of(&row)?;
            state.adjustments.insert((settled.user.clone(), settled.id.clone()), settled);
        }
    }
    Ok(())
}

fn push_pairs(query: &mut QueryBuilder<MySql>, pairs: BTreeSet<(&UserId, &str)>) {
    query.push_tuples(pairs, |mut pair, (user, id)| {
        pair.push_bind(user.as_str().to_owned()).push_bind(id.as_bytes().to_vec());
    });
}

/// Statements of varying length are not kept prepared; they would push out the rest.
async fn fetch(transaction: &mut Tx<'_>, mut query: QueryBuilder<MySql>) -> Result<Vec<MySqlRow>, StoreError> {
    query.build().persistent(false).fetch_all(&mut **transaction).await.map_err(store_error)
}

async fn execute(transaction: &mut Tx<'_>, mut query: QueryBuilder<MySql>) -> Result<(), StoreError> {
    query.build().persistent(false).execute(&mut **transaction).await.map(|_| ()).map_err(store_error)
}

/// Writes what the rule decided, one statement a table.
async fn write(transaction: &mut Tx<'_>, writes: &Writes, at: BillingTime) -> Result<(), StoreError> {
    if !writes.transactions.is_empty() {
        execute(transaction, insert_transactions(&writes.transactions)).await?;
        execute(transaction, insert_records(writes, at)).await?;
        execute(transaction, add_usage(writes, at)).await?;
    }
    if !writes.quotas.is_empty() {
        execute(transaction, set_quotas(writes, at)).await?;
    }
    if !writes.adjustments.is_empty() {
        execute(transaction, insert_adjustments(&writes.adjustments)).await?;
    }
    execute(transaction, set_balances(writes, at)).await
}

fn insert_transactions(transactions: &[Transaction]) -> QueryBuilder<MySql> {
    let mut query = QueryBuilder::new(
        "INSERT INTO billing_transaction (user_id, trace_id, status, service_name, count, cost, api_key_id, model, \
         input_tokens, output_tokens, cached_input_tokens, free_count, paid_count, amount, record_id, balance_after, \
         free_remaining_after, created_at) ",
    );
    query.push_values(transactions, |mut row, settled| {
        let content = &settled.content;
        row.push_bind(settled.user.as_str().to_owned())
            .push_bind(settled.trace.as_str().as_bytes().to_vec())
            .push("'COMMITTED'")
            .push_bind(content.service.as_str().to_owned())
            .push_bind(content.count)
            .push_bind(content.cost.map(|cost| cost.to_decimal()))
            .push_bind(content.api_key.as_ref().map(|key| key.as_str().as_bytes().to_vec()))
            .push_bind(content.model.as_ref().map(|model| model.as_str().as_bytes().to_vec()))
            .push_bind(content.usage.map(|usage| usage.input_tokens))
            .push_bind(content.usage.map(|usage| usage.output_tokens))
            .push_bind(content.usage.map(|usage| usage.cached_input_tokens))
            .push_bind(settled.free)
            .push_bind(settled.paid)
            .push_bind(settled.amount.to_decimal())
            .push_bind(settled.record_id.to_string())
            .push_bind(settled.balance_after.to_decimal())
            .push_bind(settled.free_remaining_after)
            .push_bind(settled.created_at.naive_utc());
    });
    query
}

fn insert_records(writes: &Writes, at: BillingTime) -> QueryBuilder<MySql> {
    let mut query = QueryBuilder::new(
        "INSERT INTO billing_record \
         (billing_record_id, user_id, service_name, type, amount, count, created_at, usage_date, trace_id) ",
    );
    query.push_values(&writes.records, |mut row, (user, record)| {
        row.push_bind(record.id.clone())
            .push_bind(user.as_str().to_owned())
            .push_bind(record.service.as_str().to_owned())
            .push_bind(record.kind as i32)
            .push_bind(record.amount.to_decimal())
            .push_bind(record.count)
            .push_bind(record.created_at.naive_utc())
            .push_bind(at.day)
            .push_bind(record.trace.as_ref().map(|trace| trace.as_str().as_bytes().to_vec()));
    });
    query
}

fn add_usage(writes: &Writes, at: BillingTime) -> QueryBuilder<MySql> {
    let mut query = QueryBuilder::new(
        "INSERT INTO usage_daily \
         (user_id, usage_date, service_name, free_count, paid_count, amount, free_records, paid_records) ",
    );
    query.push_values(&writes.usage, |mut row, delta| {
        row.push_bind(delta.user.as_str().to_owned())
            .push_bind(at.day)
            .push_bind(delta.service.as_str().to_owned())
            .push_bind(delta.totals.free_count)
            .push_bind(delta.totals.paid_count)
            .push_bind(delta.totals.amount.to_decimal())
            .push_bind(delta.free_records)
            .push_bind(delta.paid_records);
    });
    query.push(
        " ON DUPLICATE KEY UPDATE free_count = free_count + VALUES(free_count), \
         paid_count = paid_count + VALUES(paid_count), amount = amount + VALUES(amount), \
         free_records = free_records + VALUES(free_records), paid_records = paid_records + VALUES(paid_records)",
    );
    query
}

fn insert_adjustments(adjustments: &[Adjusted]) -> QueryBuilder<MySql> {
    let mut query = QueryBuilder::new(
        "INSERT INTO balance_adjustment \
         (user_id, adjustment_id, amount, reason, operator, request_id, balance_after, created_at) ",
    );
    query.push_values(adjustments, |mut row, adjusted| {
        row.push_bind(adjusted.user.as_str().to_owned())
            .push_bind(adjusted.id.as_str().as_bytes().to_vec())
            .push_bind(adjusted.content.amount.to_decimal())
            .push_bind(adjusted.content.reason.clone())
            .push_bind(adjusted.content.operator.clone())
            .push_bind(adjusted.request.to_string())
            .push_bind(adjusted.balance_after.to_decimal())
            .push_bind(adjusted.created_at.naive_utc());
    });
    query
}

/// The rows are there and locked: the insert is only a way to update many rows to
/// different values in one statement, and its other columns are never used.
fn set_balances(writes: &Writes, at: BillingTime) -> QueryBuilder<MySql> {
    let mut query =
        QueryBuilder::new("INSERT INTO user_balance (user_balance_id, user_id, balance, version, updated_at) ");
    query.push_values(&writes.balances, |mut row, (user, balance, version)| {
        row.push("''")
            .push_bind(user.as_str().to_owned())
            .push_bind(balance.to_decimal())
            .push_bind(*version)
            .push_bind(at.utc.naive_utc());
    });
    query.push(
        " ON DUPLICATE KEY UPDATE balance = VALUES(balance), version = VALUES(version), \
         updated_at = VALUES(updated_at)",
    );
    query
}

/// As [`set_balances`].
fn set_quotas(writes: &Writes, at: BillingTime) -> QueryBuilder<MySql> {
    let mut query = QueryBuilder::new(
        "INSERT INTO free_quota \
         (free_quota_id, user_id, reset_month, service_name, total_quota, used_quota, updated_at) ",
    );
    query.push_values(&writes.quotas, |mut row, (user, quota)| {
        row.push("''")
            .push_bind(user.as_str().to_owned())
            .push_bind(at.month.to_string())
            .push_bind(quota.service.as_str().to_owned())
            .push_bind(quota.total)
            .push_bind(quota.used)
            .push_bind(at.utc.naive_utc());
    });
    query.push(" ON DUPLICATE KEY UPDATE used_quota = VALUES(used_quota), updated_at = VALUES(updated_at)");
    query
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
