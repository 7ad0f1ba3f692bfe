//! One audit event: the result of an action.
//!
//! The event of a refund is written before payment-service answers. So its page has the status of the refund too.

use axum::{extract::Path, response::Response};
use maud::{Markup, html};
use uuid::Uuid;

use super::{desk::Desk, figures};
use crate::{
    biz::{
        audit_trail::{REFUND_RECHARGE, RESOLVE_PAYMENT},
        settlement::order_refund::RefundStatus,
        values::error::{Error, Result as Answer},
    },
    console::{controls::badge, format, layout::Tool, link::link},
    service::proto::AuditEvent,
    texts::Texts,
};

/// The address of the page of an event.
pub(super) fn address(id: &str) -> String {
    format!("/console/audit-events/{id}")
}

pub(super) async fn show(desk: Desk, Path(id): Path<String>) -> Result<Response, Response> {
    let Ok(id) = id.parse::<Uuid>() else { return Err(desk.not_found()) };
    let event = desk.ok(desk.console.api.audit_trail.audit_event(id).await)?;
    let texts = desk.texts;
    let Some(event) = event else { return Err(desk.not_found()) };
    let refund = desk.ok(refund_of(&desk, &event).await)?;
    let is_open = matches!(refund, Some(RefundStatus::Pending | RefundStatus::Failed));
    let is_result = !desk.parameter("done").is_empty();
    let title = if is_result && !is_open { texts.get("action.done") } else { texts.get("audit.one") };
    let content = html! {
        h1 { (title) }
        @if is_result { (result(texts, refund)) }
        section.card {
            h2 { (event.rpc) }
            (facts(&desk, &event, refund))
            (figures::table(texts, &desk.console.settings.currency, filled(&event.before), filled(&event.after)))
        }
        p.actions {
            @if !event.user_id.is_empty() {
                a.button href=(link("/console", &[("user_id", &event.user_id)])) { (texts.get("account.show")) }
            }
            a.button href=(link("/console/audit-events", &[("user_id", &event.user_id)])) { (texts.get("audit.all")) }
        }
    };
    Ok(desk.respond_about(Some(Tool::AuditEvents), &event.user_id, title, content))
}

fn filled(state: &str) -> Option<&str> {
    Some(state).filter(|state| !state.is_empty())
}

/// The status of the refund that a call has asked payment-service for; `None` if it asked for none.
async fn refund_of(desk: &Desk, event: &AuditEvent) -> Answer<Option<RefundStatus>> {
    let operations = &desk.console.api.recharges;
    let after = figures::state(filled(&event.after));
    let figure = |name| figures::find(&after, name).and_then(|value| value.as_str()).unwrap_or_default();
    match event.rpc.as_str() {
        REFUND_RECHARGE => operations.refund_status(figure("refund_id")).await,
        RESOLVE_PAYMENT if figure("status") == "refunding" => {
            match operations.unapplied_payment(figure("payment_order_id")).await {
                Ok(payment) => Ok(Some(refund_of_payment(&payment.status))),
                Err(Error::PaymentNotFound(_)) => Ok(None),
                Err(error) => Err(error),
            }
        }
        _ => Ok(None),
    }
}

/// The status of the refund of an unapplied payment, by the status of the payment.
fn refund_of_payment(status: &str) -> RefundStatus {
    match status {
        "refunded" => RefundStatus::Success,
        // A payment whose refund has failed is open again, so another decision may have followed.
        "open" | "credited" | "dismissed" | "applied" => RefundStatus::Failed,
        _ => RefundStatus::Pending,
    }
}

fn result(texts: Texts, refund: Option<RefundStatus>) -> Markup {
    match refund {
        None | Some(RefundStatus::Success) => {
            html! { p.notice.good role="status" { (texts.get("action.done_about")) } }
        }
        Some(RefundStatus::Pending) => html! { p.notice role="status" { (texts.get("action.refund_pending")) } },
        Some(RefundStatus::Failed) => html! { p.notice.bad role="alert" { (texts.get("action.refund_failed")) } },
    }
}

fn refund_badge(texts: Texts, status: RefundStatus) -> Markup {
    let kind = match status {
        RefundStatus::Pending => "warn",
        RefundStatus::Success => "good",
        RefundStatus::Failed => "bad",
    };
    badge(kind, texts.word("refund_status", status.name()))
}

fn facts(desk: &Desk, event: &AuditEvent, refund: Option<RefundStatus>) -> Markup {
    let texts = desk.texts;
    html! {
        dl.facts {
            dt { (texts.get("column.time")) } dd { (format::time(&desk.console.calendar, event.created_at.as_ref())) }
            dt { (texts.get("audit.caller")) } dd { (event.caller) " (" (event.role) ")" }
            @if !event.user_id.is_empty() { dt { (texts.get("nav.account")) } dd { (event.user_id) } }
            @if let Some(status) = refund { dt { (texts.get("audit.refund_now")) } dd { (refund_badge(texts, status)) } }
            @if !event.reason.is_empty() { dt { (texts.get("audit.reason")) } dd { (event.reason) } }
            dt { (texts.get("failure_facts.request")) } dd { code { (event.request_id) } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refunded_payment_has_a_made_refund() {
        for (status, refund) in [
            ("refunding", RefundStatus::Pending),
            ("conflict", RefundStatus::Pending),
            ("refunded", RefundStatus::Success),
            ("open", RefundStatus::Failed),
            ("credited", RefundStatus::Failed),
            ("dismissed", RefundStatus::Failed),
            ("applied", RefundStatus::Failed),
        ] {
            assert_eq!(refund_of_payment(status), refund, "{status}");
        }
    }
}
