//! The actions on money that goes back, and on money that nobody expected.

use super::{
    accounts::{REASON_FIELD, USER_ID},
    action::Action,
    field::{Field, Values},
};
use crate::{
    biz::{
        audit_trail::{REFUND_CHARGE, REFUND_RECHARGE, RESOLVE_PAYMENT},
        values::{error::Result, invalid::Invalid},
    },
    service::proto::{RefundChargeRequest, RefundRechargeRequest, ResolvePaymentRequest},
};

const ID: usize = 128;

pub(in crate::console) static REFUND: Action = Action::of_account(
    "refund",
    REFUND_CHARGE,
    &[USER_ID, Field::text("trace_id", ID), Field::count("count").optional(), REASON_FIELD],
    |api, values, attempt| {
        Box::pin(async move {
            let request = RefundChargeRequest {
                user_id: values.text("user_id"),
                trace_id: values.text("trace_id"),
                refund_id: attempt.id(),
                count: values.count("count")?,
                reason: values.text("reason"),
            };
            api.refunds.refund_charge(request, attempt.intent).await.map(drop)
        })
    },
);

pub(in crate::console) static REFUND_TOP_UP: Action = Action::new(
    "refund-top-up",
    REFUND_RECHARGE,
    &[Field::text("order_id", ID), Field::decimal("amount").optional(), Field::flag("force"), REASON_FIELD],
    |api, values, attempt| {
        Box::pin(async move {
            let request = RefundRechargeRequest {
                order_id: values.text("order_id"),
                refund_id: attempt.id(),
                amount: part(values)?,
                reason: values.text("reason"),
                force: values.is_set("force"),
            };
            api.recharges.refund_recharge(request, attempt.origin, attempt.intent).await.map(drop)
        })
    },
);

/// The amount of a part of a top-up; 0, which the contract takes for all that is left, without a value.
fn part(values: &Values) -> Result<f64> {
    match values.amount("amount")? {
        Some(0.0) => Err(Invalid::new("amount", "must be above 0, or absent for all that is left").into()),
        amount => Ok(amount.unwrap_or_default()),
    }
}

pub(in crate::console) static RESOLVE: Action = Action::of_account(
    "resolve-payment",
    RESOLVE_PAYMENT,
    &[
        Field::text("payment_order_id", ID),
        Field::choice("action", &["credit", "refund", "dismiss"]),
        USER_ID.optional(),
        REASON_FIELD,
    ],
    |api, values, attempt| {
        Box::pin(async move {
            let request = ResolvePaymentRequest {
                payment_order_id: values.text("payment_order_id"),
                action: values.text("action"),
                user_id: values.text("user_id"),
                reason: values.text("reason"),
            };
            api.recharges.resolve_payment(request, attempt.origin, attempt.intent).await.map(drop)
        })
    },
);
