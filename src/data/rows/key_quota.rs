//! Quotas of API keys: `api_key_quota`.

use crate::{
    biz::{
        limits::key_quota::{KeyQuota, KeyQuotas, KnownSince, Period, QuotaType, Taken},
        values::{error::StoreError, ids::ApiKeyId},
    },
    data::{error::corrupt, row::Columns},
};

/// Adds a row: key, kind, period, limit, used, day, beginning, version; units taken in the day,
/// the month and in all; the fired percentage.
pub fn add(quotas: &mut KeyQuotas, row: &impl Columns) -> Result<(), StoreError> {
    let kind: QuotaType = row.text(1)?.parse().map_err(|_| corrupt("quota type"))?;
    let period: Period = row.text(2)?.parse().map_err(|_| corrupt("period"))?;
    let taken = Taken { day: row.number(8)?, month: row.number(9)?, total: row.number(10)? };
    let quota = KeyQuota {
        period,
        limit: row.number(3)?,
        taken: taken.with(period, row.number(4)?),
        day: row.day(5)?,
        since: row.time(6)?,
        fired: row.number(11)?,
        version: row.number(7)?,
    };
    quotas.insert((ApiKeyId::from_stored(row.text(0)?), kind), quota);
    Ok(())
}

/// The period and the limit of a quota.
pub fn period_and_limit_of(row: &impl Columns) -> Result<(Period, i64), StoreError> {
    Ok((row.text(0)?.parse().map_err(|_| corrupt("period"))?, row.number(1)?))
}

/// A kind, and since when its units of the day, of the month and of all time are known.
pub fn known_since_of(row: &impl Columns) -> Result<(QuotaType, KnownSince), StoreError> {
    let kind = row.text(0)?.parse().map_err(|_| corrupt("quota type"))?;
    Ok((kind, known_since_at(row, 1)?))
}

/// Since when the use of the day, of the month and of all time is known, in three columns from `first` on.
pub fn known_since_at(row: &impl Columns, first: usize) -> Result<KnownSince, StoreError> {
    Ok(KnownSince { day: row.time(first)?, month: row.time(first + 1)?, total: row.time(first + 2)? })
}
