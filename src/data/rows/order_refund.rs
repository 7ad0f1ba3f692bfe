//! Refunds of top-ups: `recharge_refund`.

use crate::{
    biz::{
        settlement::order_refund::OrderRefund,
        values::{
            error::StoreError,
            ids::{OrderId, RefundId, UserId},
        },
    },
    data::{error::corrupt, row::Columns},
};

/// The columns of [`order_refund_of`].
macro_rules! order_refund_columns {
    () => {
        "refund_id, order_id, user_id, kind, status, amount, asked_amount, is_forced, reason, request_id, balance_after, \
         created_at, updated_at, settled_at"
    };
}
pub(in crate::data) use order_refund_columns;

/// A refund: id, order, user, kind, status, amount, asked amount, whether it is forced, reason,
/// request, balance after it, creation, last change, time of the debit.
pub fn order_refund_of(row: &impl Columns) -> Result<OrderRefund, StoreError> {
    Ok(OrderRefund {
        id: RefundId::from_stored(row.text(0)?),
        order: OrderId::from_stored(row.text(1)?),
        user: UserId::from_stored(row.text(2)?),
        kind: row.text(3)?.parse().map_err(|_| corrupt("kind of a refund"))?,
        status: row.text(4)?.parse().map_err(|_| corrupt("status of a refund"))?,
        amount: row.money(5)?,
        asked: row.optional_money(6)?,
        is_forced: row.number::<u8>(7)? == 1,
        reason: row.text(8)?,
        request: row.uuid(9)?,
        balance_after: row.money(10)?,
        created_at: row.time(11)?,
        updated_at: row.time(12)?,
        settled_at: row.optional_time(13)?,
    })
}
