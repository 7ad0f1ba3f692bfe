//! Quotas of API keys: `api_key_quota`.

use crate::{
    biz::{
        limits::key_quota::{KeyQuota, KeyQuotas, QuotaType},
        values::{error::StoreError, ids::ApiKeyId},
    },
    data::{error::corrupt, row::Columns},
};

/// Adds a row: key, kind, period, limit, used, day, beginning, version.
pub fn add(quotas: &mut KeyQuotas, row: &impl Columns) -> Result<(), StoreError> {
    let kind: QuotaType = row.text(1)?.parse().map_err(|_| corrupt("quota type"))?;
    let quota = KeyQuota {
        period: row.text(2)?.parse().map_err(|_| corrupt("period"))?,
        limit: row.number(3)?,
        used: row.number(4)?,
        day: row.day(5)?,
        since: row.time(6)?,
        version: row.number(7)?,
    };
    quotas.insert((ApiKeyId::from_stored(row.text(0)?), kind), quota);
    Ok(())
}
