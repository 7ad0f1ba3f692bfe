//! What the units of a transaction are, as both databases keep it.

use super::error::corrupt;
use crate::biz::{catalog::QuotaUnit, error::StoreError, settlement::transaction::Transaction};

const TOKENS: &str = "tokens";

/// NULL for calls, as in all rows that are older than prices by model.
pub(super) fn quota_unit_name(transaction: &Transaction) -> Option<&'static str> {
    match transaction.quota_unit {
        QuotaUnit::Calls => None,
        QuotaUnit::Tokens => Some(TOKENS),
    }
}

pub(super) fn quota_unit_of(stored: Option<&str>) -> Result<QuotaUnit, StoreError> {
    match stored {
        None => Ok(QuotaUnit::Calls),
        Some(TOKENS) => Ok(QuotaUnit::Tokens),
        Some(_) => Err(corrupt("quota_unit")),
    }
}
