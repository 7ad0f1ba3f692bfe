//! One audit event: the result of an action.

use axum::{extract::Path, response::Response};
use maud::{Markup, html};
use uuid::Uuid;

use super::{desk::Desk, figures};
use crate::{
    console::{format, layout::Tool, link::link},
    service::proto::AuditEvent,
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
    let is_done = !desk.parameter("done").is_empty();
    let title = if is_done { texts.get("action.done") } else { texts.get("audit.one") };
    let content = html! {
        h1 { (title) }
        @if is_done { p.notice.good role="status" { (texts.get("action.done_about")) } }
        section.card {
            h2 { (event.rpc) }
            (facts(&desk, &event))
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

fn facts(desk: &Desk, event: &AuditEvent) -> Markup {
    let texts = desk.texts;
    html! {
        dl.facts {
            dt { (texts.get("column.time")) } dd { (format::time(&desk.console.calendar, event.created_at.as_ref())) }
            dt { (texts.get("audit.caller")) } dd { (event.caller) " (" (event.role) ")" }
            @if !event.user_id.is_empty() { dt { (texts.get("nav.account")) } dd { (event.user_id) } }
            @if !event.reason.is_empty() { dt { (texts.get("audit.reason")) } dd { (event.reason) } }
            dt { (texts.get("failure_facts.request")) } dd { code { (event.request_id) } }
        }
    }
}
