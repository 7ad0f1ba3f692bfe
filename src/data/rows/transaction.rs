//! Settled transactions: `billing_transaction` and `balance_adjustment`.

use crate::{
    biz::{
        account::catalog::QuotaUnit,
        charge::prices::{PriceVersion, json::OfTransaction},
        settlement::{
            posting::{Adjusted, AdjustmentContent},
            refund::RefundedPart,
            transaction::{ChargeContent, Delivered, Due, Reservation, Status, Transaction},
        },
        values::{
            error::StoreError,
            ids::{
                AdjustmentId, ApiKeyId, ModelName, PlanName, PriceVersionId, ServiceName, ServiceTier, TraceId, UserId,
            },
            invalid::Invalid,
            usage::Usage,
        },
    },
    data::{
        column_codes::{charged_by_of, quota_unit_of, reports_of},
        error::corrupt,
        row::Columns,
        rows::price::draft_of,
    },
};

/// A transaction: user, trace, status, service, count, cost, API key, model, three token columns,
/// free and paid units, amount, record, balance and free units after it, time; held units and amount,
/// full cost, cost of the commit, day, expiry; price version and its three prices; two estimates;
/// quota unit, shortfall, the origin of the charge; refunded free and paid units and amount; the day of
/// a late charge; six columns of the other parts of the usage, service tiers of the request and of the
/// commit, model of the commit, plan, details of the price, and the reports of a stream.
pub fn transaction_of(row: &impl Columns) -> Result<Transaction, StoreError> {
    let status: Status = row.text(2)?.parse().map_err(|_| corrupt("status"))?;
    let (free, paid): (u32, u32) = (row.number(11)?, row.number(12)?);
    let usage = usage_of(row, 8, 37)?;
    let (draft, OfTransaction { multiplier, weights }) = draft_of(row, 25, 47)?.map_err(unreadable_price)?;
    let quota_unit = quota_unit_of(row.optional_text(30)?.as_deref(), weights)?;
    let delivered_count = match quota_unit {
        QuotaUnit::Calls => free + paid,
        QuotaUnit::Tokens(_) => row.number(4)?,
    };
    let reservation = match row.optional_time(23)? {
        None => None,
        Some(expires_at) => Some(Reservation {
            free: row.number(18)?,
            amount: row.money(19)?,
            full_cost: row.money(20)?,
            expires_at,
            day: row.day(22)?,
            late_day: row.optional_day(36)?,
            reported: usage.filter(|_| status != Status::Committed),
            reports: reports_of(row.optional_text(48)?.as_deref())?,
            delivered: match status {
                Status::Committed => Some(Delivered {
                    count: delivered_count,
                    cost: row.optional_money(21)?,
                    usage,
                    service_tier: row.optional_text(44)?.map(ServiceTier::from_stored),
                    model: row.optional_text(45)?.map(ModelName::from_stored),
                }),
                _ => None,
            },
            charged_by: charged_by_of(row.optional_integer(32)?)?,
        }),
    };
    Ok(Transaction {
        user: UserId::from_stored(row.text(0)?),
        trace: TraceId::from_stored(row.text(1)?),
        content: ChargeContent {
            service: ServiceName::from_stored(row.text(3)?),
            count: row.number(4)?,
            cost: row.optional_money(5)?,
            api_key: row.optional_text(6)?.map(ApiKeyId::from_stored),
            model: row.optional_text(7)?.map(ModelName::from_stored),
            // For a reservation the columns have the delivered or reported usage.
            usage: usage.filter(|_| reservation.is_none()),
            estimate: match row.optional_number(28)? {
                None => None,
                Some(input_tokens) => Some(Usage::of_text(input_tokens, row.number(29)?)),
            },
            service_tier: row.optional_text(43)?.map(ServiceTier::from_stored),
        },
        status,
        quota_unit,
        price_version: match row.optional_text(24)? {
            None => None,
            Some(id) => {
                let prices = draft.check().map_err(unreadable_price)?.into();
                Some(PriceVersion { id: PriceVersionId::from_stored(id), prices, multiplier })
            }
        },
        plan: row.optional_text(46)?.as_deref().map(PlanName::from_stored),
        reservation,
        free,
        paid,
        amount: row.money(13)?,
        shortfall: row.money(31)?,
        record_id: row.uuid(14)?,
        refunded: RefundedPart {
            free: row.optional_number(33)?.unwrap_or_default(),
            paid: row.optional_number(34)?.unwrap_or_default(),
            amount: row.money(35)?,
        },
        balance_after: row.money(15)?,
        free_remaining_after: row.number(16)?,
        created_at: row.time(17)?,
    })
}

fn unreadable_price(why: Invalid) -> StoreError {
    StoreError::Failed(format!("the prices of a transaction can't be read: {why}"))
}

/// Three token columns from `first` on, all of them NULL when there was no usage; and the six columns of
/// the other parts from `rest` on, NULL when there was none of a part.
pub fn usage_of(row: &impl Columns, first: usize, rest: usize) -> Result<Option<Usage>, StoreError> {
    let Some(input_tokens) = row.optional_number(first)? else { return Ok(None) };
    let part = |column| Ok::<u32, StoreError>(row.optional_number(rest + column)?.unwrap_or(0));
    Ok(Some(Usage {
        input_tokens,
        output_tokens: row.number(first + 1)?,
        cached_input_tokens: row.number(first + 2)?,
        cache_write_tokens: part(0)?,
        cache_write_1h_tokens: part(1)?,
        audio_input_tokens: part(2)?,
        reasoning_tokens: part(3)?,
        audio_output_tokens: part(4)?,
        images: part(5)?,
    }))
}

/// A reservation that may have expired: expiry, user, trace, whether it is pending.
pub fn due_of(row: &impl Columns) -> Result<Due, StoreError> {
    Ok(Due {
        expires_at: row.time(0)?,
        user: UserId::from_stored(row.text(1)?),
        trace: TraceId::from_stored(row.text(2)?),
        is_pending: row.number::<u8>(3)? == 1,
    })
}

/// The columns of [`adjusted_of`].
macro_rules! adjustment_columns {
    () => {
        "user_id, adjustment_id, amount, reason, operator, request_id, balance_after, created_at"
    };
}
pub(in crate::data) use adjustment_columns;

/// An adjustment: user, id, amount, reason, operator, request, balance after it, time.
pub fn adjusted_of(row: &impl Columns) -> Result<Adjusted, StoreError> {
    Ok(Adjusted {
        user: UserId::from_stored(row.text(0)?),
        id: AdjustmentId::from_stored(row.text(1)?),
        content: AdjustmentContent { amount: row.money(2)?, reason: row.text(3)?, operator: row.text(4)? },
        request: row.uuid(5)?,
        balance_after: row.money(6)?,
        created_at: row.time(7)?,
    })
}
