//! Top-up orders: `recharge_order`.

use chrono::TimeDelta;

use crate::{
    biz::{
        settlement::order::Order,
        values::{
            error::StoreError,
            ids::{IdempotencyKey, OrderId, PaymentId, UserId},
        },
    },
    data::{error::corrupt, row::Columns},
};

/// The last change of an order is its creation or later, but for the skew of the clocks of two processes.
pub const MOST_ORDER_SKEW: TimeDelta = TimeDelta::days(1);

/// The columns of [`order_of`].
macro_rules! order_columns {
    () => {
        "order_id, user_id, amount, payment_method, status, payment_order_id, payment_url, created_at, updated_at, \
         idempotency_key, refunded_amount, refunding_amount, credited_at"
    };
}
pub(in crate::data) use order_columns;

/// An order: id, user, amount, payment method, status, payment and its page, creation, last change,
/// idempotency key, refunded and pending amount, time of the credit.
pub fn order_of(row: &impl Columns) -> Result<Order, StoreError> {
    let method = row.optional_text(3)?.map(|name| name.parse().map_err(|_| corrupt("payment method")));
    Ok(Order {
        id: OrderId::from_stored(row.text(0)?),
        user: UserId::from_stored(row.text(1)?),
        amount: row.money(2)?,
        method: method.transpose()?,
        status: row.text(4)?.parse().map_err(|_| corrupt("order status"))?,
        // The legacy service wrote an empty text for a missing payment.
        payment: row.optional_text(5)?.filter(|id| !id.is_empty()).map(PaymentId::from_stored),
        payment_url: row.optional_text(6)?,
        created_at: row.time(7)?,
        updated_at: row.time(8)?,
        refunded: row.money(10)?,
        refunding: row.money(11)?,
        credited_at: row.optional_time(12)?,
        idempotency_key: row.optional_text(9)?.map(IdempotencyKey::from_stored),
    })
}
