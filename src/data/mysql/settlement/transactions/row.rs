//! Rows of `billing_transaction` as transactions.

use chrono::{DateTime, Utc};
use sqlx::{Row, mysql::MySqlRow};
use uuid::Uuid;

use crate::{
    biz::{
        account::catalog::QuotaUnit,
        charge::prices::{PriceVersion, TokenPrices},
        settlement::transaction::{ChargeContent, Delivered, Reservation, Status, Transaction},
        values::{
            error::StoreError,
            ids::{ApiKeyId, ModelName, PriceVersionId, ServiceName, TraceId, UserId},
            usage::Usage,
        },
    },
    data::{
        column_codes::{charged_by_of, quota_unit_of},
        error::{corrupt, store_error},
        mysql::row::{money, number, optional_money, optional_text, text},
    },
};

/// What [`transaction_of`] reads, in its order.
pub const COLUMNS: &str = "user_id, trace_id, status, service_name, count, cost, api_key_id, model, \
    input_tokens, output_tokens, cached_input_tokens, free_count, paid_count, amount, record_id, balance_after, \
    free_remaining_after, created_at, held_free, held_amount, full_cost, commit_cost, usage_date, expires_at, \
    price_version, input_price, cached_input_price, output_price, estimated_input_tokens, estimated_output_tokens, \
    quota_unit, shortfall, charged_by";

pub fn transaction_of(row: &MySqlRow) -> Result<Transaction, StoreError> {
    let status: Status = text(row, 2)?.parse().map_err(|_| corrupt("status"))?;
    let (free, paid): (u32, u32) = (number(row, 11)?, number(row, 12)?);
    let usage = usage_of(row, 8)?;
    let quota_unit = quota_unit_of(optional_text(row, 30)?.as_deref())?;
    let delivered_count = match quota_unit {
        QuotaUnit::Calls => free + paid,
        QuotaUnit::Tokens => number(row, 4)?,
    };
    let expires_at: Option<DateTime<Utc>> = row.try_get(23).map_err(store_error)?;
    let reservation = match expires_at {
        None => None,
        Some(expires_at) => Some(Reservation {
            free: number(row, 18)?,
            amount: money(row, 19)?,
            full_cost: money(row, 20)?,
            expires_at,
            day: row.try_get(22).map_err(store_error)?,
            reported: usage.filter(|_| status != Status::Committed),
            delivered: match status {
                Status::Committed => Some(Delivered { count: delivered_count, cost: optional_money(row, 21)?, usage }),
                _ => None,
            },
            charged_by: charged_by_of(row.try_get::<Option<i8>, _>(32).map_err(store_error)?.map(i64::from))?,
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
            estimate: match row.try_get::<Option<i64>, _>(28).map_err(store_error)? {
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
        created_at: row.try_get(17).map_err(store_error)?,
    })
}

pub fn uuid_of(text: String) -> Result<Uuid, StoreError> {
    text.parse().map_err(|_| corrupt("id"))
}

/// Three token columns from `first` on; all of them NULL when there was no usage.
pub fn usage_of(row: &MySqlRow, first: usize) -> Result<Option<Usage>, StoreError> {
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
