//! The calls of operators that changed something.

use axum::response::Response;
use maud::{Markup, html};

use super::{desk::Desk, event, figures};
use crate::{
    console::{controls, format, layout::Tool, link::link},
    service::proto::{AuditEvent, ListAuditEventsRequest},
};

const PAGE_SIZE: i32 = 25;
/// Changed figures of an event in the list.
const FIGURES: usize = 3;
/// The parameters of the filters.
const FILTERS: [&str; 5] = ["user_id", "rpc", "caller", "from", "to"];

pub(super) async fn list(desk: Desk) -> Result<Response, Response> {
    let [user_id, rpc, caller, from, to] = FILTERS.map(|name| desk.parameter(name).to_owned());
    let page_token = desk.parameter("after").to_owned();
    let request = ListAuditEventsRequest { user_id, rpc, caller, from, to, page_token, page_size: PAGE_SIZE };
    let reply = desk.ok(desk.console.api.audit_trail.list_audit_events(request).await)?;
    let texts = desk.texts;
    let newest = Some(address(&desk, "")).filter(|_| !desk.parameter("after").is_empty());
    let older = Some(address(&desk, &reply.next_page_token)).filter(|_| !reply.next_page_token.is_empty());
    let content = html! {
        h1 { (texts.get("audit.title")) }
        (filters(&desk))
        section.card {
            @if reply.events.is_empty() { p.empty { (texts.get("audit.none")) } }
            @else { (table(&desk, &reply.events)) }
            (controls::pager(texts, newest, older))
        }
    };
    Ok(desk.respond(Tool::AuditEvents, texts.get("audit.title"), content))
}

fn address(desk: &Desk, after: &str) -> String {
    let mut parameters: Vec<_> = FILTERS.iter().map(|name| (*name, desk.parameter(name))).collect();
    parameters.push(("after", after));
    link("/console/audit-events", &parameters)
}

fn filters(desk: &Desk) -> Markup {
    let texts = desk.texts;
    let fields = [
        ("user_id", texts.get("account.id"), "text"),
        ("rpc", texts.get("audit.rpc"), "text"),
        ("caller", texts.get("audit.caller"), "text"),
        ("from", texts.get("filter.from"), "date"),
        ("to", texts.get("filter.to"), "date"),
    ];
    html! {
        form.filters method="get" action="/console/audit-events" {
            @for (name, label, kind) in fields {
                label { span { (label) }
                    input type=(kind) name=(name) maxlength="128" autocomplete="off" value=(desk.parameter(name));
                }
            }
            button.primary { (texts.get("filter.apply")) }
            @if FILTERS.iter().any(|name| !desk.parameter(name).is_empty()) {
                a href="/console/audit-events" { (texts.get("filter.clear")) }
            }
        }
    }
}

fn table(desk: &Desk, events: &[AuditEvent]) -> Markup {
    let texts = desk.texts;
    let columns = [
        texts.get("column.time"),
        texts.get("audit.rpc"),
        texts.get("audit.changed"),
        texts.get("nav.account"),
        texts.get("audit.caller"),
        texts.get("audit.reason"),
        texts.get("failure_facts.request"),
    ];
    let currency = &desk.console.settings.currency;
    let content = html! {
        (controls::head(&columns, &[], &[]))
        tbody {
            @for event in events {
                tr {
                    td.time {
                        a href=(event::address(&event.id)) {
                            (format::time(&desk.console.calendar, event.created_at.as_ref()))
                        }
                    }
                    td { (event.rpc) }
                    td.change { (figures::summary(texts, currency, (&event.before, &event.after), FIGURES)) }
                    td {
                        @if !event.user_id.is_empty() {
                            a href=(link("/console", &[("user_id", &event.user_id)])) { (event.user_id) }
                        }
                    }
                    td { (event.caller) " (" (event.role) ")" }
                    td { (event.reason) }
                    td { code { (event.request_id) } }
                }
            }
        }
    };
    controls::table(texts.get("audit.title"), &content)
}
