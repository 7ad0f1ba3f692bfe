//! Refunds of charges: `charge_refund`.

use crate::{
    biz::{
        settlement::refund::{RefundContent, Refunded, RefundedPart},
        values::{
            error::StoreError,
            ids::{RefundId, TraceId, UserId},
        },
    },
    data::row::Columns,
};

/// The columns of [`refunded_of`].
macro_rules! refund_columns {
    () => {
        "user_id, refund_id, trace_id, count, reason, request_id, free_count, lapsed_count, paid_count, amount, \
         refunded_free, refunded_paid, refunded_amount, balance_after, usage_date, created_at"
    };
}
pub(in crate::data) use refund_columns;

/// A refund, in the columns of [`refund_columns`].
pub fn refunded_of(row: &impl Columns) -> Result<Refunded, StoreError> {
    Ok(Refunded {
        user: UserId::from_stored(row.text(0)?),
        id: RefundId::from_stored(row.text(1)?),
        content: RefundContent {
            trace: TraceId::from_stored(row.text(2)?),
            count: row.optional_number(3)?,
            reason: row.text(4)?,
        },
        request: row.uuid(5)?,
        free: row.number(6)?,
        lapsed: row.number(7)?,
        paid: row.number(8)?,
        amount: row.money(9)?,
        sum: RefundedPart { free: row.number(10)?, paid: row.number(11)?, amount: row.money(12)? },
        balance_after: row.money(13)?,
        day: row.day(14)?,
        created_at: row.time(15)?,
    })
}
