//! Charges and reservations: rows of `billing_transaction`.

use std::collections::{BTreeSet, HashMap};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{Row, sqlite::SqliteRow};
use uuid::Uuid;

use super::{
    SqliteStore, corrupt, instant, json_rows, ledger::Tx, money, number, optional_money, optional_text, reads::day_of,
    store_error, text,
};
use crate::biz::{
    error::StoreError,
    ids::{ApiKeyId, ModelName, ServiceName, TraceId, UserId},
    record::Usage,
    settlement::{
        rule::{ReservationWrite, TransactionKey},
        transaction::{ChargeContent, Delivered, Due, Reservation, Status, Transaction, TransactionStore},
    },
};

/// What [`transaction_of`] reads, in its order.
macro_rules! select {
    ($from:literal) => {
        concat!(
            "SELECT t.user_id, t.trace_id, t.status, t.service_name, t.count, t.cost, t.api_key_id, t.model, ",
            "t.input_tokens, t.output_tokens, t.cached_input_tokens, t.free_count, t.paid_count, t.amount, ",
            "t.record_id, t.balance_after, t.free_remaining_after, t.created_at, t.held_free, t.held_amount, ",
            "t.full_cost, t.commit_cost, t.usage_date, t.expires_at ",
            $from
        )
    };
}

#[async_trait]
impl TransactionStore for SqliteStore {
    async fn transaction(&self, user: &UserId, trace: &TraceId) -> Result<Option<Transaction>, StoreError> {
        sqlx::query(select!("FROM billing_transaction t WHERE user_id = ? AND trace_id = ?"))
            .bind(user.as_str())
            .bind(trace.as_str())
            .fetch_optional(&self.reader)
            .await
            .map_err(store_error)?
            .as_ref()
            .map(transaction_of)
            .transpose()
    }

    async fn due(&self, until: DateTime<Utc>, after: Option<&Due>, limit: u32) -> Result<Vec<Due>, StoreError> {
        let (after_time, after_user, after_trace) = match after {
            Some(due) => (due.expires_at, due.user.as_str(), due.trace.as_str()),
            None => (DateTime::UNIX_EPOCH, "", ""),
        };
        let rows = sqlx::query(
            "SELECT expires_at, user_id, trace_id FROM billing_transaction \
             WHERE status = 'PENDING' AND expires_at <= ? AND (expires_at, user_id, trace_id) > (?, ?, ?) \
             ORDER BY expires_at, user_id, trace_id LIMIT ?",
        )
        .bind(until.timestamp_micros())
        .bind(after_time.timestamp_micros())
        .bind(after_user)
        .bind(after_trace)
        .bind(limit)
        .fetch_all(&self.reader)
        .await
        .map_err(store_error)?;
        rows.iter()
            .map(|row| {
                Ok(Due {
                    expires_at: instant(row, 0)?,
                    user: UserId::from_stored(text(row, 1)?),
                    trace: TraceId::from_stored(text(row, 2)?),
                })
            })
            .collect()
    }
}

/// Finds which transactions are known already.
pub(super) async fn load(
    transaction: &mut Tx<'_>,
    keys: &BTreeSet<(&UserId, &TraceId)>,
) -> Result<HashMap<TransactionKey, Transaction>, StoreError> {
    let rows = sqlx::query(select!(
        "FROM json_each(?) wanted CROSS JOIN billing_transaction t \
         ON t.user_id = wanted.value ->> 0 AND t.trace_id = wanted.value ->> 1"
    ))
    .bind(json_rows(keys.iter().map(|(user, trace)| (user.as_str(), trace.as_str())))?)
    .fetch_all(&mut **transaction)
    .await
    .map_err(store_error)?;
    rows.iter()
        .map(|row| {
            let known = transaction_of(row)?;
            Ok(((known.user.clone(), known.trace.clone()), known))
        })
        .collect()
}

/// Rows of charges, which hold nothing: what only reservations have stays NULL.
pub(super) async fn insert_charges(transaction: &mut Tx<'_>, charges: &[Transaction]) -> Result<(), StoreError> {
    let rows = charges.iter().map(|charge| shared(charge, charge.content.usage));
    sqlx::query(
        "INSERT INTO billing_transaction (user_id, trace_id, status, service_name, count, cost, api_key_id, model, \
         input_tokens, output_tokens, cached_input_tokens, free_count, paid_count, amount, record_id, balance_after, \
         free_remaining_after, created_at) \
         SELECT value ->> '$[0][0]', value ->> '$[0][1]', value ->> '$[0][2]', value ->> '$[0][3]', \
         value ->> '$[0][4]', value ->> '$[0][5]', value ->> '$[0][6]', value ->> '$[0][7]', value ->> '$[1][0]', \
         value ->> '$[1][1]', value ->> '$[1][2]', value ->> '$[2][0]', value ->> '$[2][1]', value ->> '$[2][2]', \
         value ->> '$[2][3]', value ->> '$[2][4]', value ->> '$[2][5]', value ->> '$[2][6]' FROM json_each(?1)",
    )
    .bind(json_rows(rows)?)
    .execute(&mut **transaction)
    .await
    .map(|_| ())
    .map_err(store_error)
}

/// Rows of reservations, new or with their new state.
pub(super) async fn write_reservations(
    transaction: &mut Tx<'_>,
    writes: &[ReservationWrite],
) -> Result<(), StoreError> {
    let rows = writes.iter().filter_map(|write| {
        let reservation = write.transaction.reservation.as_ref()?;
        let delivered = reservation.delivered.as_ref();
        Some((
            shared(&write.transaction, delivered.and_then(|delivered| delivered.usage)),
            (
                reservation.free,
                reservation.amount.micros(),
                reservation.full_cost.micros(),
                delivered.and_then(|delivered| delivered.cost).map(|cost| cost.micros()),
                reservation.day.to_string(),
                reservation.expires_at.timestamp_micros(),
            ),
        ))
    });
    sqlx::query(
        "INSERT INTO billing_transaction (user_id, trace_id, status, service_name, count, cost, api_key_id, model, \
         input_tokens, output_tokens, cached_input_tokens, free_count, paid_count, amount, record_id, balance_after, \
         free_remaining_after, created_at, held_free, held_amount, full_cost, commit_cost, usage_date, expires_at) \
         SELECT value ->> '$[0][0][0]', value ->> '$[0][0][1]', value ->> '$[0][0][2]', value ->> '$[0][0][3]', \
         value ->> '$[0][0][4]', value ->> '$[0][0][5]', value ->> '$[0][0][6]', value ->> '$[0][0][7]', \
         value ->> '$[0][1][0]', value ->> '$[0][1][1]', value ->> '$[0][1][2]', value ->> '$[0][2][0]', \
         value ->> '$[0][2][1]', value ->> '$[0][2][2]', value ->> '$[0][2][3]', value ->> '$[0][2][4]', \
         value ->> '$[0][2][5]', value ->> '$[0][2][6]', value ->> '$[1][0]', value ->> '$[1][1]', \
         value ->> '$[1][2]', value ->> '$[1][3]', value ->> '$[1][4]', value ->> '$[1][5]' \
         FROM json_each(?1) WHERE true \
         ON CONFLICT DO UPDATE SET status = excluded.status, input_tokens = excluded.input_tokens, \
         output_tokens = excluded.output_tokens, cached_input_tokens = excluded.cached_input_tokens, \
         free_count = excluded.free_count, paid_count = excluded.paid_count, amount = excluded.amount, \
         record_id = excluded.record_id, balance_after = excluded.balance_after, \
         free_remaining_after = excluded.free_remaining_after, commit_cost = excluded.commit_cost",
    )
    .bind(json_rows(rows)?)
    .execute(&mut **transaction)
    .await
    .map(|_| ())
    .map_err(store_error)
}

/// The columns that charges and reservations share, in groups that serde has tuples for.
fn shared(transaction: &Transaction, usage: Option<Usage>) -> impl serde::Serialize + '_ {
    let content = &transaction.content;
    (
        (
            transaction.user.as_str(),
            transaction.trace.as_str(),
            transaction.status.name(),
            content.service.as_str(),
            content.count,
            content.cost.map(|cost| cost.micros()),
            content.api_key.as_ref().map(ApiKeyId::as_str),
            content.model.as_ref().map(ModelName::as_str),
        ),
        usage.map(|usage| (usage.input_tokens, usage.output_tokens, usage.cached_input_tokens)),
        (
            transaction.free,
            transaction.paid,
            transaction.amount.micros(),
            transaction.record_id.to_string(),
            transaction.balance_after.micros(),
            transaction.free_remaining_after,
            transaction.created_at.timestamp_micros(),
        ),
    )
}

fn transaction_of(row: &SqliteRow) -> Result<Transaction, StoreError> {
    let status: Status = text(row, 2)?.parse().map_err(|_| corrupt("status"))?;
    let (free, paid): (u32, u32) = (number(row, 11)?, number(row, 12)?);
    let usage = usage_of(row, 8)?;
    let expires_at: Option<i64> = row.try_get(23).map_err(store_error)?;
    let reservation = match expires_at {
        None => None,
        Some(_) => Some(Reservation {
            free: number(row, 18)?,
            amount: money(row, 19)?,
            full_cost: money(row, 20)?,
            expires_at: instant(row, 23)?,
            day: day_of(row, 22)?,
            delivered: match status {
                Status::Committed => Some(Delivered { count: free + paid, cost: optional_money(row, 21)?, usage }),
                _ => None,
            },
        }),
    };
    Ok(Transaction {
        user: UserId::from_stored(text(row, 0)?),
        trace: TraceId::from_stored(text(row, 1)?),
        content: ChargeContent {
            service: ServiceName::from_stored(text(row, 3)?),
            count: number(row, 4)?,
            cost: optional_money(row, 5)?,
            api_key: optional_text(row, 6)?.map(ApiKeyId::from_stored),
            model: optional_text(row, 7)?.map(ModelName::from_stored),
            // Of a reservation it is what the commit reported.
            usage: usage.filter(|_| reservation.is_none()),
        },
        status,
        reservation,
        free,
        paid,
        amount: money(row, 13)?,
        record_id: uuid_of(text(row, 14)?)?,
        balance_after: money(row, 15)?,
        free_remaining_after: number(row, 16)?,
        created_at: instant(row, 17)?,
    })
}

pub(super) fn uuid_of(text: String) -> Result<Uuid, StoreError> {
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
