//! Payments that were reported and not credited: `unapplied_payment`.

use crate::{
    biz::{
        settlement::unapplied::UnappliedPayment,
        values::{
            error::StoreError,
            ids::{OrderId, PaymentId, UserId},
        },
    },
    data::{error::corrupt, row::Columns},
};

/// An unapplied payment: payment, order, amount, currency, cause, times seen, first and last time,
/// status, user, reason, refunds, time of the resolution, sum that went back.
pub fn unapplied_of(row: &impl Columns) -> Result<UnappliedPayment, StoreError> {
    Ok(UnappliedPayment {
        payment: PaymentId::from_stored(row.text(0)?),
        order: OrderId::from_stored(row.text(1)?),
        amount: row.money(2)?,
        currency: row.text(3)?,
        cause: row.text(4)?.parse().map_err(|_| corrupt("cause of an unapplied payment"))?,
        times_seen: row.number(5)?,
        first_seen_at: row.time(6)?,
        last_seen_at: row.time(7)?,
        status: row.text(8)?.parse().map_err(|_| corrupt("status of an unapplied payment"))?,
        user: row.optional_text(9)?.map(UserId::from_stored),
        reason: row.text(10)?,
        refunds: row.number(11)?,
        resolved_at: row.optional_time(12)?,
        returned: row.money(13)?,
    })
}
