//! The audit events of postings.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde_json::json;

use super::{
    order::Order,
    order_refund::OrderRefund,
    posting::{
        Adjusted, Adjustment, AlertsChange, Batch, Opening, OrderRefundRequest, PlanChange, Posting, Refund,
        StatusChange,
    },
    refund::Refunded,
    unapplied::UnappliedPayment,
};
use crate::biz::{
    account::Balance,
    audit_trail::{AuditEvent, AuditedCall},
    events::alerts::Alerts,
    values::{
        account_status::AccountStatus,
        ids::{PlanName, UserId},
        money::Money,
    },
};

/// The events of the calls that open some of these new accounts by name. Each is written with its
/// account.
pub fn of_openings(batch: &Batch, created: &BTreeSet<UserId>) -> BTreeMap<UserId, AuditEvent> {
    let mut events = BTreeMap::new();
    for posting in &batch.postings {
        let Posting::Open(Opening { user, call: Some(call) }) = posting else { continue };
        if created.contains(user) && !events.contains_key(user) {
            events.insert(user.clone(), of_opening(call, user, batch.at.utc));
        }
    }
    events
}

/// The event of an opening by name.
pub fn of_opening(call: &AuditedCall, user: &UserId, at: DateTime<Utc>) -> AuditEvent {
    let after = json!({"balance": Money::ZERO.to_string(), "status": AccountStatus::default().name()});
    call.event(at, Some(user), None, Some(after))
}

/// The event of an adjustment of the balance `before`.
pub fn of_adjustment(request: &Adjustment, before: Money, adjusted: &Adjusted) -> AuditEvent {
    let mut after = json!({
        "balance": adjusted.balance_after.to_string(),
        "adjustment_id": request.id.as_str(),
        "amount": request.content.amount.to_string(),
        "operator": request.content.operator,
    });
    if request.allow_negative {
        after["allow_negative"] = true.into();
    }
    let before = json!({"balance": before.to_string()});
    request.call.event(adjusted.created_at, Some(&request.user), Some(before), Some(after))
}

/// The event of a refund on the balance `before`.
pub fn of_refund(request: &Refund, before: Money, refunded: &Refunded) -> AuditEvent {
    let after = json!({
        "balance": refunded.balance_after.to_string(),
        "refund_id": request.id.as_str(),
        "trace_id": request.content.trace.as_str(),
        "amount": refunded.amount.to_string(),
        "free_count": refunded.free,
        "paid_count": refunded.paid,
        "refunded_count": refunded.sum.units(),
    });
    let before = json!({"balance": before.to_string()});
    request.call.event(refunded.created_at, Some(&request.user), Some(before), Some(after))
}

/// The event of a change of the status `before`.
pub fn of_status(request: &StatusChange, before: AccountStatus, at: DateTime<Utc>) -> AuditEvent {
    let state = |status: AccountStatus| Some(json!({"status": status.name()}));
    request.call.event(at, Some(&request.user), state(before), state(request.status))
}

/// The event of a change of the plan `before`.
pub fn of_plan(request: &PlanChange, before: Option<PlanName>, at: DateTime<Utc>) -> AuditEvent {
    let name = |plan: Option<PlanName>| plan.map_or_else(|| PlanName::DEFAULT.to_owned(), |plan| plan.to_string());
    let state = |plan| Some(json!({"plan": name(plan)}));
    request.call.event(at, Some(&request.user), state(before), state(request.plan))
}

/// The event of a change of the alerts `before`.
pub fn of_alerts(request: &AlertsChange, before: Option<&Alerts>, at: DateTime<Utc>) -> AuditEvent {
    let state = |alerts: Option<&Alerts>| {
        let alerts = alerts?;
        let balance_below: Vec<String> = alerts.balance_below.iter().map(Money::to_string).collect();
        Some(json!({"balance_below": balance_below, "quota_percent": alerts.quota_percent}))
    };
    request.call.event(at, Some(&request.user), state(before), state(request.alerts.as_deref()))
}

/// The event of a refund that holds its amount on the balance `before`.
pub fn of_order_refund(
    request: &OrderRefundRequest,
    (before, after): (Balance, Balance),
    (order, refund): (&Order, &OrderRefund),
) -> AuditEvent {
    let state = |balance: Balance| json!({"balance": balance.amount.to_string(), "held": balance.held.to_string()});
    let mut after = state(after);
    if let Some(after) = after.as_object_mut() {
        after.extend([
            ("order_id".into(), json!(order.id.as_str())),
            ("refund_id".into(), json!(refund.id.as_str())),
            ("amount".into(), json!(refund.amount.to_string())),
            ("force".into(), json!(refund.is_forced)),
        ]);
    }
    request.call.event(refund.created_at, Some(&request.user), Some(state(before)), Some(after))
}

/// The event of the resolution of an unapplied payment. A credit has the balances of its user.
pub fn of_resolution(
    call: &AuditedCall,
    before: &UnappliedPayment,
    after: &UnappliedPayment,
    at: DateTime<Utc>,
    balances: Option<(Money, Money)>,
) -> AuditEvent {
    let state = |payment: &UnappliedPayment, balance: Option<Money>| {
        let mut state = json!({
            "payment_order_id": payment.payment.as_str(),
            "status": payment.status.name(),
            "amount": payment.amount.to_string(),
            "currency": payment.currency,
        });
        if let Some(balance) = balance {
            state["balance"] = balance.to_string().into();
        }
        state
    };
    let (was, is) = balances.unzip();
    call.event(at, after.user.as_ref(), Some(state(before, was)), Some(state(after, is)))
}
