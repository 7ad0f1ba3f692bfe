//! Payments that were reported and not credited: `unapplied_payment`.

use crate::{
    biz::{
        recharge::unapplied::FoundUnapplied,
        settlement::unapplied::UnappliedPayment,
        values::{
            error::StoreError,
            ids::{OrderId, PaymentId, UserId},
        },
    },
    data::{error::corrupt, row::Columns},
};

/// The columns of [`unapplied_of`].
macro_rules! unapplied_columns {
    () => {
        "payment_order_id, order_id, amount, currency, cause, times_seen, first_seen_at, last_seen_at, status, user_id, \
         reason, refunds, resolved_at, returned_amount"
    };
}
pub(in crate::data) use unapplied_columns;

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

/// A payment to resolve: the columns of [`unapplied_of`], whether it has credited an order, whether the return
/// is counted, and whether any return of the payment is.
pub fn found_unapplied_of(row: &impl Columns) -> Result<FoundUnapplied, StoreError> {
    let flag = |column| row.number::<u8>(column).map(|flag| flag == 1);
    let (has_credited, is_counted, has_returns) = (flag(14)?, flag(15)?, flag(16)?);
    Ok(FoundUnapplied { payment: unapplied_of(row)?, has_credited, is_counted, has_returns })
}
