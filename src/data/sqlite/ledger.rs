//! One settlement transaction: load, decide, write, commit.

use async_trait::async_trait;
use sqlx::{Sqlite, sqlite::SqliteRow};

use super::{
    SqliteStore, accounts, instant, json_rows, money, store_error, text,
    transactions::{self, uuid_of},
};
use crate::biz::{
    calendar::BillingTime,
    error::StoreError,
    ids::{AdjustmentId, UserId},
    settlement::{
        keys::Keys,
        ledger::Ledger,
        posting::{Adjusted, AdjustmentContent, Batch, Outcome},
        rule::{self, NewRecord, State, UsageDelta, UsageKey, Writes},
    },
};

pub(super) type Tx<'a> = sqlx::Transaction<'a, Sqlite>;

#[async_trait]
impl Ledger for SqliteStore {
    async fn settle(&self, batch: &Batch) -> Result<Vec<Outcome>, StoreError> {
        let keys = Keys::of(batch);
        // Immediate: the write lock from the first statement on. A transaction that
        // upgrades later fails at once instead of waiting.
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(store_error)?;
        let mut state = State::default();
        accounts::load_accounts(&mut transaction, &keys, batch.at.month, &mut state).await?;
        let unopened = state.unopened(&keys, batch.at.month);
        if !unopened.is_empty() {
            state.created = unopened.iter().filter(|user| !state.balances.contains_key(user)).cloned().collect();
            accounts::insert_missing(&mut transaction, &unopened, batch.at, &batch.catalog).await?;
            accounts::load_accounts(&mut transaction, &keys, batch.at.month, &mut state).await?;
        }
        if !keys.transactions.is_empty() {
            state.transactions = transactions::load(&mut transaction, &keys.transactions).await?;
        }
        if !keys.adjustments.is_empty() {
            load_adjustments(&mut transaction, &keys, &mut state).await?;
        }
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

/// Finds which adjustments of the batch are settled already.
async fn load_adjustments(transaction: &mut Tx<'_>, keys: &Keys<'_>, state: &mut State) -> Result<(), StoreError> {
    let rows = sqlx::query(
        "SELECT a.user_id, a.adjustment_id, a.amount, a.reason, a.operator, a.request_id, a.balance_after, \
         a.created_at FROM json_each(?) wanted CROSS JOIN balance_adjustment a \
         ON a.user_id = wanted.value ->> 0 AND a.adjustment_id = wanted.value ->> 1",
    )
    .bind(json_rows(keys.adjustments.iter().map(|(user, id)| (user.as_str(), id.as_str())))?)
    .fetch_all(&mut **transaction)
    .await
    .map_err(store_error)?;
    for row in &rows {
        let settled = adjusted_of(row)?;
        state.adjustments.insert((settled.user.clone(), settled.id.clone()), settled);
    }
    Ok(())
}

/// Writes what the rule decided, one statement a table.
async fn write(transaction: &mut Tx<'_>, writes: &Writes, at: BillingTime) -> Result<(), StoreError> {
    if !writes.charges.is_empty() {
        transactions::insert_charges(transaction, &writes.charges).await?;
    }
    if !writes.reservations.is_empty() {
        transactions::write_reservations(transaction, &writes.reservations).await?;
    }
    if !writes.records.is_empty() {
        insert_records(transaction, &writes.records).await?;
        add_usage(transaction, &writes.usage).await?;
    }
    if !writes.quotas.is_empty() {
        accounts::set_quotas(transaction, &writes.quotas, at).await?;
    }
    if !writes.adjustments.is_empty() {
        insert_adjustments(transaction, &writes.adjustments).await?;
    }
    accounts::set_balances(transaction, &writes.balances, at).await
}

async fn insert_records(transaction: &mut Tx<'_>, records: &[NewRecord]) -> Result<(), StoreError> {
    let rows = records.iter().map(|NewRecord { user, day, record }| {
        (
            &record.id,
            user.as_str(),
            record.service.as_str(),
            record.kind as i32,
            record.amount.micros(),
            record.count,
            record.trace.as_ref().map(|trace| trace.as_str()),
            record.created_at.timestamp_micros(),
            day.to_string(),
        )
    });
    sqlx::query(
        "INSERT INTO billing_record \
         (billing_record_id, user_id, service_name, type, amount, count, trace_id, created_at, usage_date) \
         SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7, value ->> 8 \
         FROM json_each(?1)",
    )
    .bind(json_rows(rows)?)
    .execute(&mut **transaction)
    .await
    .map(|_| ())
    .map_err(store_error)
}

async fn add_usage(transaction: &mut Tx<'_>, usage: &[(UsageKey, UsageDelta)]) -> Result<(), StoreError> {
    let rows = usage.iter().map(|((user, day, service), delta)| {
        (
            user.as_str(),
            day.to_string(),
            service.as_str(),
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
         SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7 \
         FROM json_each(?1) WHERE true \
         ON CONFLICT DO UPDATE SET free_count = free_count + excluded.free_count, \
         paid_count = paid_count + excluded.paid_count, amount = amount + excluded.amount, \
         free_records = free_records + excluded.free_records, paid_records = paid_records + excluded.paid_records",
    )
    .bind(json_rows(rows)?)
    .execute(&mut **transaction)
    .await
    .map(|_| ())
    .map_err(store_error)
}

async fn insert_adjustments(transaction: &mut Tx<'_>, adjustments: &[Adjusted]) -> Result<(), StoreError> {
    let rows = adjustments.iter().map(|adjusted| {
        (
            adjusted.user.as_str(),
            adjusted.id.as_str(),
            adjusted.content.amount.micros(),
            &adjusted.content.reason,
            &adjusted.content.operator,
            adjusted.request.to_string(),
            adjusted.balance_after.micros(),
            adjusted.created_at.timestamp_micros(),
        )
    });
    sqlx::query(
        "INSERT INTO balance_adjustment \
         (user_id, adjustment_id, amount, reason, operator, request_id, balance_after, created_at) \
         SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7 \
         FROM json_each(?1)",
    )
    .bind(json_rows(rows)?)
    .execute(&mut **transaction)
    .await
    .map(|_| ())
    .map_err(store_error)
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
