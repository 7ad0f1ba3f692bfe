//! Lists and statistics: `billing_record` with its transaction, and `usage_daily`.

use super::transaction::usage_of;
use crate::{
    biz::{
        reports::{
            record::{Counted, Record, RecordType},
            statistics::{DailyUse, Totals},
        },
        values::{
            calendar::DaySpan,
            error::StoreError,
            ids::{ApiKeyId, ModelName, ServiceName, ServiceTier, TraceId},
        },
    },
    data::{error::corrupt, row::Columns},
};

/// A record: id, service, type, amount, count, time, trace, API key, model, three token columns, the main
/// record of its transaction, to which alone the tokens belong, the month that it is late of, six columns of
/// the other parts of its usage, the model that served, and the tier of service.
pub fn record_of(row: &impl Columns) -> Result<Record, StoreError> {
    let id = row.text(0)?;
    let is_main = row.optional_text(12)?.is_some_and(|main| main == id);
    Ok(Record {
        service: ServiceName::from_stored(row.text(1)?),
        kind: RecordType::from_number(row.number(2)?).ok_or_else(|| corrupt("record type"))?,
        amount: row.money(3)?,
        count: row.number(4)?,
        created_at: row.time(5)?,
        trace: row.optional_text(6)?.map(TraceId::from_stored),
        api_key: row.optional_text(7)?.map(ApiKeyId::from_stored),
        model: row.optional_text(8)?.map(ModelName::from_stored),
        served_model: row.optional_text(20)?.map(ModelName::from_stored),
        service_tier: row.optional_text(21)?.map(ServiceTier::from_stored),
        usage: if is_main { usage_of(row, 9, 14)? } else { None },
        late_of: match row.optional_text(13)? {
            Some(month) => Some(month.parse().map_err(|_| corrupt("late_of"))?),
            None => None,
        },
        id,
    })
}

/// The number of records, and the first and last day, which are NULL without records.
pub fn counted_of(row: &impl Columns) -> Result<Counted, StoreError> {
    let days = row.optional_day(1)?.zip(row.optional_day(2)?);
    Ok(Counted { records: row.number(0)?, days: days.map(|(first, last)| DaySpan { first, last }) })
}

/// A service and its totals.
pub fn service_totals_of(row: &impl Columns) -> Result<(ServiceName, Totals), StoreError> {
    Ok((ServiceName::from_stored(row.text(0)?), totals_of(row, 1)?))
}

/// A service, a day and its totals.
pub fn daily_use_of(row: &impl Columns) -> Result<DailyUse, StoreError> {
    Ok(DailyUse { service: ServiceName::from_stored(row.text(0)?), day: row.day(1)?, totals: totals_of(row, 2)? })
}

/// Five columns from `first` on: free units, paid units, amount; refunded units and amount.
fn totals_of(row: &impl Columns, first: usize) -> Result<Totals, StoreError> {
    Ok(Totals {
        free_count: row.number(first)?,
        paid_count: row.number(first + 1)?,
        amount: row.money(first + 2)?,
        refunded_count: row.number(first + 3)?,
        refunded_amount: row.money(first + 4)?,
    })
}
