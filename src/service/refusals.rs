//! The errors that each rpc may answer, for the OpenAPI document.

use super::errors::{
    Kind,
    kinds::{
        ACCOUNT_NOT_ACTIVE, AMOUNT_MISMATCH, DUPLICATE_RECHARGE, IDEMPOTENCY_CONFLICT, INSUFFICIENT_BALANCE,
        INSUFFICIENT_QUOTA, INTERNAL, INVALID_ARGUMENT, ORDER_NOT_FOUND, OVERLOADED, PAYMENT_UNAVAILABLE,
        TRANSACTION_NOT_FOUND, TRANSACTION_STATE, UNKNOWN_SERVICE,
    },
};

/// Every rpc may answer these.
const COMMON: [Kind; 3] = [INVALID_ARGUMENT, OVERLOADED, INTERNAL];

/// The errors of an rpc or an export, without those of its caller's proof.
pub fn refusals(rpc: &str) -> impl Iterator<Item = Kind> {
    own(rpc).iter().chain(&COMMON).copied()
}

fn own(rpc: &str) -> &'static [Kind] {
    match rpc {
        "Recharge" => {
            &[INSUFFICIENT_QUOTA, AMOUNT_MISMATCH, PAYMENT_UNAVAILABLE, IDEMPOTENCY_CONFLICT, ACCOUNT_NOT_ACTIVE]
        }
        "GetRechargeOrder" => &[ORDER_NOT_FOUND],
        "ListRecords" | "ExportRecords" | "GetStatsToday" | "GetStatsMonth" | "GetUsage" | "CheckQuota"
        | "QuotePrice" => &[UNKNOWN_SERVICE],
        "Authorize" => &[INSUFFICIENT_BALANCE, INSUFFICIENT_QUOTA, UNKNOWN_SERVICE, ACCOUNT_NOT_ACTIVE],
        "DeductQuota" => {
            &[INSUFFICIENT_BALANCE, INSUFFICIENT_QUOTA, IDEMPOTENCY_CONFLICT, UNKNOWN_SERVICE, ACCOUNT_NOT_ACTIVE]
        }
        "ReserveQuota" => &[
            INSUFFICIENT_BALANCE,
            INSUFFICIENT_QUOTA,
            IDEMPOTENCY_CONFLICT,
            UNKNOWN_SERVICE,
            TRANSACTION_STATE,
            ACCOUNT_NOT_ACTIVE,
        ],
        "CommitReservation" | "RefundCharge" => &[TRANSACTION_NOT_FOUND, TRANSACTION_STATE, IDEMPOTENCY_CONFLICT],
        "ReleaseReservation" => &[TRANSACTION_NOT_FOUND, TRANSACTION_STATE],
        "GetTransaction" => &[TRANSACTION_NOT_FOUND],
        "RechargeCallback" => {
            &[ORDER_NOT_FOUND, AMOUNT_MISMATCH, DUPLICATE_RECHARGE, PAYMENT_UNAVAILABLE, IDEMPOTENCY_CONFLICT]
        }
        "RefundRecharge" => &[
            INSUFFICIENT_BALANCE,
            ORDER_NOT_FOUND,
            DUPLICATE_RECHARGE,
            PAYMENT_UNAVAILABLE,
            IDEMPOTENCY_CONFLICT,
            TRANSACTION_STATE,
        ],
        "ResolvePayment" => &[
            ORDER_NOT_FOUND,
            DUPLICATE_RECHARGE,
            AMOUNT_MISMATCH,
            PAYMENT_UNAVAILABLE,
            IDEMPOTENCY_CONFLICT,
            TRANSACTION_STATE,
        ],
        "AdjustBalance" => &[INSUFFICIENT_BALANCE, IDEMPOTENCY_CONFLICT],
        _ => &[],
    }
}
