//! The codes of columns, in both databases: `quota_unit`, `charged_by`, `reports`, the parts of the usage and the
//! details of the price of a transaction, and `status` of an account.

use std::borrow::Cow;

use chrono::DateTime;

use super::error::corrupt;
use crate::biz::{
    account::{catalog::QuotaUnit, quota_weights::QuotaWeights},
    charge::{
        prices::{
            Factor, Work,
            json::{self, OfTransaction},
        },
        quote::calls,
    },
    settlement::transaction::{ChargedBy, Reports, Transaction},
    values::{account_status::AccountStatus, error::StoreError, usage::Usage},
};

const TOKENS: &str = "tokens";

/// NULL means calls, as in all rows that are older than prices by model.
pub(super) fn quota_unit_name(transaction: &Transaction) -> Option<&'static str> {
    match transaction.quota_unit {
        QuotaUnit::Calls => None,
        QuotaUnit::Tokens(_) => Some(TOKENS),
    }
}

pub(super) fn quota_unit_of(stored: Option<&str>, weights: QuotaWeights) -> Result<QuotaUnit, StoreError> {
    match stored {
        None => Ok(QuotaUnit::Calls),
        Some(TOKENS) => Ok(QuotaUnit::Tokens(weights)),
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

/// The reports of a stream as a list in JSON: number, first and last in microseconds, input and output tokens of the
/// last. NULL without one.
pub(super) fn reports_text(transaction: &Transaction) -> Option<String> {
    let Reports { count, first_at, last_at, input_tokens, output_tokens } = transaction.reservation.as_ref()?.reports?;
    let [first, last] = [first_at, last_at].map(|at| at.timestamp_micros());
    Some(format!("[{count},{first},{last},{input_tokens},{output_tokens}]"))
}

pub(super) fn reports_of(stored: Option<&str>) -> Result<Option<Reports>, StoreError> {
    let Some(stored) = stored else { return Ok(None) };
    let read = || {
        let (count, first, last, input_tokens, output_tokens) = serde_json::from_str(stored).ok()?;
        let [first_at, last_at] = [first, last].map(DateTime::from_timestamp_micros);
        Some(Reports { count, first_at: first_at?, last_at: last_at?, input_tokens, output_tokens })
    };
    read().map(Some).ok_or_else(|| corrupt("reports"))
}

/// The parts of a usage beside input, output and cached input; `None` where there is none.
pub(super) fn usage_parts(usage: Option<Usage>) -> [Option<u32>; 6] {
    let usage = usage.unwrap_or_default();
    [
        usage.cache_write_tokens,
        usage.cache_write_1h_tokens,
        usage.audio_input_tokens,
        usage.reasoning_tokens,
        usage.audio_output_tokens,
        usage.images,
    ]
    .map(|part| Some(part).filter(|part| *part > 0))
}

/// The prices of a transaction that have no columns, and the weights of its quota; NULL if there are
/// none. A charge keeps only those prices that explain its amount. A reservation keeps all that could
/// price its commit.
pub(super) fn price_details(transaction: &Transaction) -> Option<String> {
    let weights = weights(transaction);
    let Some(version) = transaction.price_version.as_ref().filter(|version| !version.is_flat()) else {
        return json::of_transaction(None, OfTransaction { multiplier: Factor::ONE, weights });
    };
    let prices = match (&transaction.reservation, transaction.content.usage) {
        (None, Some(usage)) => Cow::Owned(version.prices.narrowed(Work {
            usage,
            calls: calls(transaction.quota_unit, transaction.units()),
            service_tier: transaction.content.service_tier.as_ref(),
        })),
        _ => Cow::Borrowed(&*version.prices),
    };
    json::of_transaction(Some(&prices), OfTransaction { multiplier: version.multiplier, weights })
}

/// Whether [`price_details`] is not NULL.
pub(super) fn has_price_details(transaction: &Transaction) -> bool {
    let has_more = transaction.price_version.as_ref().is_some_and(|version| !version.is_flat());
    has_more || !weights(transaction).counts_all_tokens()
}

fn weights(transaction: &Transaction) -> QuotaWeights {
    match transaction.quota_unit {
        QuotaUnit::Tokens(weights) => weights,
        QuotaUnit::Calls => QuotaWeights::ALL_TOKENS,
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
