//! The codes of columns, in both databases: `quota_unit` and `charged_by` of a transaction, and
//! `status` of an account.

use super::error::corrupt;
use crate::biz::{
    account::catalog::QuotaUnit,
    settlement::transaction::{ChargedBy, Transaction},
    values::{account_status::AccountStatus, error::StoreError},
};

const TOKENS: &str = "tokens";

/// NULL means calls, as in all rows that are older than prices by model.
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

/// NULL means that a commit alone made the charge.
pub(super) fn charged_by_number(transaction: &Transaction) -> Option<u8> {
    match transaction.reservation.as_ref()?.charged_by {
        ChargedBy::Commit => None,
        ChargedBy::Report => Some(1),
        ChargedBy::Both => Some(2),
    }
}

pub(super) fn charged_by_of(stored: Option<i64>) -> Result<ChargedBy, StoreError> {
    match stored {
        None => Ok(ChargedBy::Commit),
        Some(1) => Ok(ChargedBy::Report),
        Some(2) => Ok(ChargedBy::Both),
        Some(_) => Err(corrupt("charged_by")),
    }
}

pub(super) fn account_status_number(status: AccountStatus) -> u8 {
    match status {
        AccountStatus::Active => 0,
        AccountStatus::Frozen => 1,
        AccountStatus::Closed => 2,
    }
}

pub(super) fn account_status_of(stored: i64) -> Result<AccountStatus, StoreError> {
    let mut all = AccountStatus::ALL.into_iter();
    all.find(|status| i64::from(account_status_number(*status)) == stored).ok_or_else(|| corrupt("status"))
}
