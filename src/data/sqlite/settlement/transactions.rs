//! Charges and reservations: rows of `billing_transaction`.

use std::collections::{BTreeSet, HashMap};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use rusqlite::{Statement, ToSql, Transaction as Tx};
use uuid::Uuid;

use crate::{
    biz::{
        account::catalog::QuotaUnit,
        charge::prices::{PriceVersion, TokenPrices},
        settlement::{
            rule::{ReservationWrite, TransactionKey},
            transaction::{ChargeContent, Delivered, Due, Reservation, Status, Transaction, TransactionStore},
        },
        values::{
            error::StoreError,
            ids::{ApiKeyId, ModelName, PriceVersionId, ServiceName, TraceId, UserId},
            money::Money,
            usage::Usage,
        },
    },
    data::{
        column_codes::{charged_by_number, charged_by_of, quota_unit_name, quota_unit_of},
        error::{corrupt, store_error},
        sqlite::{
            SqliteStore,
            row::{Row, day_of, instant, money, number, optional_money, optional_text, text},
            writer::{found, writer_error},
        },
    },
};

/// One transaction, as [`transaction_of`] reads it.
const ONE: &str = "\
    SELECT user_id, trace_id, status, service_name, count, cost, api_key_id, model, input_tokens, output_tokens, \
    cached_input_tokens, free_count, paid_count, amount, record_id, balance_after, free_remaining_after, created_at, \
    held_free, held_amount, full_cost, commit_cost, usage_date, expires_at, \
    price_version, input_price, cached_input_price, output_price, estimated_input_tokens, estimated_output_tokens, \
    quota_unit, shortfall, charged_by \
    FROM billing_transaction WHERE user_id = ? AND trace_id = ?";

#[async_trait]
impl TransactionStore for SqliteStore {
    async fn transaction(&self, user: &UserId, trace: &TraceId) -> Result<Option<Transaction>, StoreError> {
        sqlx::query(ONE)
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
                    is_pending: true,
                })
            })
            .collect()
    }

    /// The index holds PENDING ones alone.
    async fn forget(&self, _: &[Due]) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Finds which transactions are known already.
pub fn load(
    transaction: &Tx<'_>,
    keys: &BTreeSet<(&UserId, &TraceId)>,
) -> Result<HashMap<TransactionKey, Transaction>, StoreError> {
    let mut find = transaction.prepare_cached(ONE).map_err(writer_error)?;
    let mut known = HashMap::new();
    for &(user, trace) in keys {
        if let Some(one) = found(&mut find, [user.as_str(), trace.as_str()], |row| transaction_of(row))? {
            known.insert((user.clone(), trace.clone()), one);
        }
    }
    Ok(known)
}

/// Rows of charges, which hold nothing: what only reservations have stays NULL.
pub fn insert_charges(transaction: &Tx<'_>, charges: &[Transaction]) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached(
        "INSERT INTO billing_transaction (user_id, trace_id, status, service_name, count, cost, api_key_id, model, \
         input_tokens, output_tokens, cached_input_tokens, free_count, paid_count, amount, record_id, balance_after, \
         free_remaining_after, created_at, quota_unit, price_version, input_price, cached_input_price, output_price) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?;
    for charge in charges {
        bind_shared(&mut insert, charge, charge.content.usage)?;
        insert.raw_execute()?;
    }
    Ok(())
}

/// Rows of reservations, new or with their new state.
pub fn write_reservations(transaction: &Tx<'_>, writes: &[ReservationWrite]) -> rusqlite::Result<()> {
    let mut upsert = transaction.prepare_cached(
        "INSERT INTO billing_transaction (user_id, trace_id, status, service_name, count, cost, api_key_id, model, \
         input_tokens, output_tokens, cached_input_tokens, free_count, paid_count, amount, record_id, balance_after, \
         free_remaining_after, created_at, quota_unit, price_version, input_price, cached_input_price, output_price, \
         held_free, held_amount, full_cost, commit_cost, usage_date, expires_at, estimated_input_tokens, \
         estimated_output_tokens, shortfall, charged_by) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
         ON CONFLICT DO UPDATE SET status = excluded.status, input_tokens = excluded.input_tokens, \
         output_tokens = excluded.output_tokens, cached_input_tokens = excluded.cached_input_tokens, \
         free_count = excluded.free_count, paid_count = excluded.paid_count, amount = excluded.amount, \
         record_id = excluded.record_id, balance_after = excluded.balance_after, \
         free_remaining_after = excluded.free_remaining_after, commit_cost = excluded.commit_cost, \
         held_free = excluded.held_free, held_amount = excluded.held_amount, expires_at = excluded.expires_at, \
         shortfall = excluded.shortfall, charged_by = excluded.charged_by",
    )?;
    for ReservationWrite { transaction, .. } in writes {
        let Some(reservation) = &transaction.reservation else { continue };
        let delivered = reservation.delivered.as_ref();
        let next = bind_shared(&mut upsert, transaction, reservation.usage())?;
        let estimate = transaction.content.estimate;
        let shortfall = Some(transaction.shortfall).filter(|shortfall| !shortfall.is_zero());
        let values: [&dyn ToSql; 10] = [
            &reservation.free,
            &reservation.amount.micros(),
            &reservation.full_cost.micros(),
            &delivered.and_then(|delivered| delivered.cost).map(Money::micros),
            &reservation.day.to_string(),
            &reservation.expires_at.timestamp_micros(),
            &estimate.map(|usage| usage.input_tokens),
            &estimate.map(|usage| usage.output_tokens),
            &shortfall.map(Money::micros),
            &charged_by_number(transaction),
        ];
        bind(&mut upsert, next, &values)?;
        upsert.raw_execute()?;
    }
    Ok(())
}

/// Binds the columns that charges and reservations share; the number of the next one.
fn bind_shared(
    statement: &mut Statement<'_>,
    transaction: &Transaction,
    usage: Option<Usage>,
) -> rusqlite::Result<usize> {
    let content = &transaction.content;
    let (version, prices) = match &transaction.price_version {
        Some(version) => (Some(version.id.as_str()), Some(version.prices)),
        None => (None, None),
    };
    let values: [&dyn ToSql; 23] = [
        &transaction.user.as_str(),
        &transaction.trace.as_str(),
        &transaction.status.name(),
        &content.service.as_str(),
        &content.count,
        &content.cost.map(Money::micros),
        &content.api_key.as_ref().map(ApiKeyId::as_str),
        &content.model.as_ref().map(ModelName::as_str),
        &usage.map(|usage| usage.input_tokens),
        &usage.map(|usage| usage.output_tokens),
        &usage.map(|usage| usage.cached_input_tokens),
        &transaction.free,
        &transaction.paid,
        &transaction.amount.micros(),
        &transaction.record_id.to_string(),
        &transaction.balance_after.micros(),
        &transaction.free_remaining_after,
        &transaction.created_at.timestamp_micros(),
        &quota_unit_name(transaction),
        &version,
        &prices.map(|prices| prices.input.micros()),
        &prices.map(|prices| prices.cached_input.micros()),
        &prices.map(|prices| prices.output.micros()),
    ];
    bind(statement, 1, &values)
}

fn bind(statement: &mut Statement<'_>, first: usize, values: &[&dyn ToSql]) -> rusqlite::Result<usize> {
    for (parameter, value) in (first..).zip(values) {
        statement.raw_bind_parameter(parameter, value)?;
    }
    Ok(first + values.len())
}

fn transaction_of(row: &impl Row) -> Result<Transaction, StoreError> {
    let status: Status = text(row, 2)?.parse().map_err(|_| corrupt("status"))?;
    let (free, paid): (u32, u32) = (number(row, 11)?, number(row, 12)?);
    let usage = usage_of(row, 8)?;
    let quota_unit = quota_unit_of(optional_text(row, 30)?.as_deref())?;
    let delivered_count = match quota_unit {
        QuotaUnit::Calls => free + paid,
        QuotaUnit::Tokens => number(row, 4)?,
    };
    let reservation = match row.integer(23)? {
        None => None,
        Some(_) => Some(Reservation {
            free: number(row, 18)?,
            amount: money(row, 19)?,
            full_cost: money(row, 20)?,
            expires_at: instant(row, 23)?,
            day: day_of(row, 22)?,
            reported: usage.filter(|_| status != Status::Committed),
            delivered: match status {
                Status::Committed => Some(Delivered { count: delivered_count, cost: optional_money(row, 21)?, usage }),
                _ => None,
            },
            charged_by: charged_by_of(row.integer(32)?)?,
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
            // Of a reservation it is what was delivered, or reported so far.
            usage: usage.filter(|_| reservation.is_none()),
            estimate: match row.integer(28)? {
                None => None,
                Some(_) => Some(Usage {
                    input_tokens: number(row, 28)?,
                    output_tokens: number(row, 29)?,
                    cached_input_tokens: 0,
                }),
            },
        },
        status,
        quota_unit,
        price_version: match optional_text(row, 24)? {
            None => None,
            Some(id) => {
                let prices =
                    TokenPrices { input: money(row, 25)?, cached_input: money(row, 26)?, output: money(row, 27)? };
                Some(PriceVersion { id: PriceVersionId::from_stored(id), prices })
            }
        },
        reservation,
        free,
        paid,
        amount: money(row, 13)?,
        shortfall: optional_money(row, 31)?.unwrap_or_default(),
        record_id: uuid_of(text(row, 14)?)?,
        balance_after: money(row, 15)?,
        free_remaining_after: number(row, 16)?,
        created_at: instant(row, 17)?,
    })
}

pub fn uuid_of(text: String) -> Result<Uuid, StoreError> {
    text.parse().map_err(|_| corrupt("id"))
}

/// Three token columns from `first` on; all of them NULL when there was no usage.
pub fn usage_of(row: &impl Row, first: usize) -> Result<Option<Usage>, StoreError> {
    if row.integer(first)?.is_none() {
        return Ok(None);
    }
    Ok(Some(Usage {
        input_tokens: number(row, first)?,
        output_tokens: number(row, first + 1)?,
        cached_input_tokens: number(row, first + 2)?,
    }))
}
