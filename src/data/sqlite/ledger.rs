//! One settlement transaction: load, decide, write, commit.

use std::collections::BTreeSet;

use async_trait::async_trait;
use sqlx::{Row, Sqlite, sqlite::SqliteRow};
use uuid::Uuid;

use super::{
    SqliteStore, accounts, corrupt, instant, json_rows, money, number, optional_money, optional_text, store_error, text,
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

type Tx<'a> = sqlx::Transaction<'a, Sqlite>;

#[async_trait]
impl Ledger for SqliteStore {
    async fn settle(&self, batch: &Batch) -> Result<Vec<Outcome>, StoreError> {
        let users: BTreeSet<&UserId> = batch.postings.iter().map(Posting::user).collect();
        let users: Vec<&UserId> = users.into_iter().collect();
        // Immediate: the write lock from the first statement on. A transaction that
        // upgrades later fails at once instead of waiting.
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(store_error)?;
        let mut state = State {
            accounts: accounts::load_accounts(&mut transaction, &users, batch.at.month).await?,
            ..State::default()
        };
        let unopened = state.unopened(users.iter().copied(), &batch.catalog);
        if !unopened.is_empty() {
            state.created = unopened.iter().filter(|user| !state.accounts.contains_key(user)).cloned().collect();
            accounts::insert_missing(&mut transaction, &unopened, batch.at, &batch.catalog).await?;
            state.accounts = accounts::load_accounts(&mut transaction, &users, batch.at.month).await?;
        }
        load_settled(&mut transaction, batch, &mut state).await?;
        let (outcomes, writes) = rule::settle(batch, state);
        if writes.is_empty() && unopened.is_empty() {
            transaction.rollback().await.map_err(store_error)?;
            return Ok(outcomes);
        }
        write(&mut transaction, &writes, batch.at).await?;
        // Whatever goes wrong during a commit, its outcome is unknown.
        transaction.commit().await.map_err(|error| StoreError::Unavailable(format!("during commit: {error}")))?;
        Ok(outcomes)
    }
}

/// Finds which ids of the batch are settled already.
async fn load_settled(transaction: &mut Tx<'_>, batch: &Batch, state: &mut State) -> Result<(), StoreError> {
    let (mut traces, mut adjustments) = (BTreeSet::new(), BTreeSet::new());
    for posting in &batch.postings {
        match posting {
            Posting::Open(_) => false,
            Posting::Charge(charge) => traces.insert((charge.user.as_str(), charge.trace.as_str())),
            Posting::Adjust(adjustment) => adjustments.insert((adjustment.user.as_str(), adjustment.id.as_str())),
        };
    }
    if !traces.is_empty() {
        let rows = sqlx::query(
            "SELECT t.user_id, t.trace_id, t.service_name, t.count, t.cost, t.api_key_id, t.model, t.input_tokens, \
             t.output_tokens, t.cached_input_tokens, t.free_count, t.paid_count, t.amount, t.record_id, \
             t.balance_after, t.free_remaining_after, t.created_at \
             FROM json_each(?) wanted CROSS JOIN billing_transaction t \
             ON t.user_id = wanted.value ->> 0 AND t.trace_id = wanted.value ->> 1",
        )
        .bind(json_rows(traces)?)
        .fetch_all(&mut **transaction)
        .await
        .map_err(store_error)?;
        for row in &rows {
            let settled = transaction_of(row)?;
            state.transactions.insert((settled.user.clone(), settled.trace.clone()), settled);
        }
    }
    if !adjustments.is_empty() {
        let rows = sqlx::query(
            "SELECT a.user_id, a.adjustment_id, a.amount, a.reason, a.operator, a.request_id, a.balance_after, \
             a.created_at FROM json_each(?) wanted CROSS JOIN balance_adjustment a \
             ON a.user_id = wanted.value ->> 0 AND a.adjustment_id = wanted.value ->> 1",
        )
        .bind(json_rows(adjustments)?)
        .fetch_all(&mut **transaction)
        .await
        .map_err(store_error)?;
        for row in &rows {
            let settled = adjusted_of(row)?;
            state.adjustments.insert((settled.user.clone(), settled.id.clone()), settled);
        }
    }
    Ok(())
}

/// Writes what the rule decided, one statement a table.
async fn write(transaction: &mut Tx<'_>, writes: &Writes, at: BillingTime) -> Result<(), StoreError> {
    let now = at.utc.timestamp_micros();
    if !writes.transactions.is_empty() {
        insert_transactions(transaction, &writes.transactions, now).await?;
        insert_records(transaction, writes, at).await?;
        add_usage(transaction, writes, at).await?;
    }
    if !writes.quotas.is_empty() {
        let rows = writes.quotas.iter().map(|(user, quota)| (user.as_str(), quota.service.as_str(), quota.used));
        sqlx::query(
            "UPDATE free_quota SET used_quota = new.value ->> 2, updated_at = ?2 FROM json_each(?1) new \
             WHERE user_id = new.value ->> 0 AND reset_month = ?3 AND service_name = new.value ->> 1",
        )
        .bind(json_rows(rows)?)
        .bind(now)
        .bind(at.month.to_string())
        .execute(&mut **transaction)
        .await
        .map_err(store_error)?;
    }
    if !writes.adjustments.is_empty() {
        insert_adjustments(transaction, &writes.adjustments, now).await?;
    }
    let rows = writes.balances.iter().map(|(user, balance, version)| (user.as_str(), balance.micros(), version));
    sqlx::query(
        "UPDATE user_balance SET balance = new.value ->> 1, version = new.value ->> 2, updated_at = ?2 \
         FROM json_each(?1) new WHERE user_id = new.value ->> 0",
    )
    .bind(json_rows(rows)?)
    .bind(now)
    .execute(&mut **transaction)
    .await
    .map_err(store_error)?;
    Ok(())
}

async fn insert_transactions(transaction: &mut Tx<'_>, settled: &[Transaction], now: i64) -> Result<(), StoreError> {
    let rows = settled.iter().map(|settled| {
        let content = &settled.content;
        (
            (
                settled.user.as_str(),
                settled.trace.as_str(),
                content.service.as_str(),
                content.count,
                content.cost.map(|cost| cost.micros()),
                content.api_key.as_ref().map(|key| key.as_str()),
                content.model.as_ref().map(|model| model.as_str()),
            ),
            content.usage.map(|usage| (usage.input_tokens, usage.output_tokens, usage.cached_input_tokens)),
            (
                settled.free,
                settled.paid,
                settled.amount.micros(),
                settled.record_id.to_string(),
                settled.balance_after.micros(),
                settled.free_remaining_after,
            ),
        )
    });
    sqlx::query(
        "INSERT INTO billing_transaction (user_id, trace_id, status, service_name, count, cost, api_key_id, model, \
         input_tokens, output_tokens, cached_input_tokens, free_count, paid_count, amount, record_id, balance_after, \
         free_remaining_after, created_at) \
         SELECT value ->> '$[0][0]', value ->> '$[0][1]', 'COMMITTED', value ->> '$[0][2]', value ->> '$[0][3]', \
         value ->> '$[0][4]', value ->> '$[0][5]', value ->> '$[0][6]', value ->> '$[1][0]', value ->> '$[1][1]', \
         value ->> '$[1][2]', value ->> '$[2][0]', value ->> '$[2][1]', value ->> '$[2][2]', value ->> '$[2][3]', \
         value ->> '$[2][4]', value ->> '$[2][5]', ?2 FROM json_each(?1)",
    )
    .bind(json_rows(rows)?)
    .bind(now)
    .execute(&mut **transaction)
    .await
    .map(|_| ())
    .map_err(store_error)
}

async fn insert_records(transaction: &mut Tx<'_>, writes: &Writes, at: BillingTime) -> Result<(), StoreError> {
    let rows = writes.records.iter().map(|(user, record)| {
        (
            &record.id,
            user.as_str(),
            record.service.as_str(),
            record.kind as i32,
            record.amount.micros(),
            record.count,
            record.trace.as_ref().map(|trace| trace.as_str()),
        )
    });
    sqlx::query(
        "INSERT INTO billing_record \
         (billing_record_id, user_id, service_name, type, amount, count, trace_id, created_at, usage_date) \
         SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, ?2, ?3 \
         FROM json_each(?1)",
    )
    .bind(json_rows(rows)?)
    .bind(at.utc.timestamp_micros())
    .bind(at.day.to_string())
    .execute(&mut **transaction)
    .await
    .map(|_| ())
    .map_err(store_error)
}

async fn add_usage(transaction: &mut Tx<'_>, writes: &Writes, at: BillingTime) -> Result<(), StoreError> {
    let rows = writes.usage.iter().map(|delta| {
        (
            delta.user.as_str(),
            delta.service.as_str(),
            delta.totals.free_count,
            delta.totals.paid_count,
            delta.totals.amount.micros(),
            delta.free_records,
            delta.paid_records,
        )
    });
    sqlx::query(
        "INSERT INTO usage_daily \
         (user_id, usage_date, service_name, free_count, paid_count, amount, free_records, paid_records) \
         SELECT value ->> 0, ?2, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6 \
         FROM json_each(?1) WHERE true \
         ON CONFLICT DO UPDATE SET free_count = free_count + excluded.free_count, \
         paid_count = paid_count + excluded.paid_count, amount = amount + excluded.amount, \
         free_records = free_records + excluded.free_records, paid_records = paid_records + excluded.paid_records",
    )
    .bind(json_rows(rows)?)
    .bind(at.day.to_string())
    .execute(&mut **transaction)
    .await
    .map(|_| ())
    .map_err(store_error)
}

async fn insert_adjustments(transaction: &mut Tx<'_>, adjustments: &[Adjusted], now: i64) -> Result<(), StoreError> {
    let rows = adjustments.iter().map(|adjusted| {
        (
            adjusted.user.as_str(),
            adjusted.id.as_str(),
            adjusted.content.amount.micros(),
            &adjusted.content.reason,
            &adjusted.content.operator,
            adjusted.request.to_string(),
            adjusted.balance_after.micros(),
        )
    });
    sqlx::query(
        "INSERT INTO balance_adjustment \
         (user_id, adjustment_id, amount, reason, operator, request_id, balance_after, created_at) \
         SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, ?2 \
         FROM json_each(?1)",
    )
    .bind(json_rows(rows)?)
    .bind(now)
    .execute(&mut **transaction)
    .await
    .map(|_| ())
    .map_err(store_error)
}

fn transaction_of(row: &SqliteRow) -> Result<Transaction, StoreError> {
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
        created_at: instant(row, 16)?,
    })
}

fn adjusted_of(row: &SqliteRow) -> Result<Adjusted, StoreError> {
    Ok(Adjusted {
        user: UserId::from_stored(text(row, 0)?),
        id: AdjustmentId::from_stored(text(row, 1)?),
        content: AdjustmentContent { amount: money(row, 2)?, reason: text(row, 3)?, operator: text(row, 4)? },
        request: uuid_of(text(row, 5)?)?,
        balance_after: money(row, 6)?,
        created_at: instant(row, 7)?,
    })
}

fn uuid_of(text: String) -> Result<Uuid, StoreError> {
    text.parse().map_err(|_| corrupt("id"))
}

/// Three token columns from `first` on; all of them NULL when there was no usage.
pub(super) fn usage_of(row: &SqliteRow, first: usize) -> Result<Option<Usage>, StoreError> {
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
