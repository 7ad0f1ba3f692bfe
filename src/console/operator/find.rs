//! The way to all that an id names.

use axum::response::{IntoResponse, Redirect, Response};
use http::StatusCode;
use maud::{Markup, html};

use super::{actions, desk::Desk, event};
use crate::{
    console::{
        layout::Tool,
        link::{Encoded, link},
    },
    service::Finding,
    texts::Texts,
};

/// Without an id, the form. An id that names one thing leads on to its page.
pub(super) async fn show(desk: Desk) -> Result<Response, Response> {
    let (id, account) = (desk.parameter("id"), desk.parameter("user_id"));
    if id.is_empty() {
        let shown = html! {
            (form(&desk))
            @if desk.may_act { p { a href=(actions::OPEN.path()) { (desk.texts.get("find.open")) } } }
        };
        return Ok(respond(&desk, StatusCode::OK, shown));
    }
    let mut found = desk.ok(desk.console.api.operations.find(id, account).await)?;
    // Only the role of the actions may read quotas of API keys.
    found.retain(|finding| desk.may_act || !matches!(finding, Finding::ApiKey(_)));
    if let [finding] = &found[..] {
        return Ok(Redirect::to(&address(finding)).into_response());
    }
    let texts = desk.texts;
    let status = if found.is_empty() { StatusCode::NOT_FOUND } else { StatusCode::OK };
    let content = html! {
        @if found.is_empty() {
            p.notice role="status" { (texts.get("find.nothing")) }
        } @else {
            section.card {
                h2 { (texts.get("find.several")) }
                ul.list {
                    @for finding in &found { li { a href=(address(finding)) { (name(texts, finding)) } } }
                }
            }
        }
        (form(&desk))
    };
    Ok(respond(&desk, status, content))
}

fn respond(desk: &Desk, status: StatusCode, content: Markup) -> Response {
    let title = desk.texts.get("find.title");
    desk.respond_with(status, Some(Tool::Find), "", title, html! { h1 { (title) } (content) })
}

fn form(desk: &Desk) -> Markup {
    let texts = desk.texts;
    html! {
        section.card {
            form.filters method="get" action="/console/find" {
                label { span { (texts.get("find.id")) }
                    input name="id" required maxlength="128" autocomplete="off" aria-describedby="find-about" value=(desk.parameter("id"));
                }
                label { span { (texts.get("find.account")) }
                    input name="user_id" maxlength="36" autocomplete="off" aria-describedby="find-about" value=(desk.parameter("user_id"));
                }
                button.primary { (texts.get("find.go")) }
            }
            p.quiet #find-about { (texts.get("find.about")) }
        }
    }
}

fn address(finding: &Finding) -> String {
    match finding {
        Finding::Account(user) => link("/console", &[("user_id", user)]),
        Finding::Charge { user, trace } => link("/console/charge", &[("trace_id", trace), ("user_id", user)]),
        Finding::TopUp { user, order } => link(&format!("/console/top-ups/{}", Encoded(order)), &[("user_id", user)]),
        Finding::UnappliedPayment(payment) => link("/console/unapplied-payments", &[("payment_order_id", payment)]),
        Finding::ApiKey(key) => link("/console/api-key", &[("api_key_id", key)]),
        Finding::AuditEvent(id) => event::address(id),
    }
}

fn name(texts: Texts, finding: &Finding) -> String {
    let (kind, id) = match finding {
        Finding::Account(user) => ("account", user),
        Finding::Charge { trace, .. } => ("charge", trace),
        Finding::TopUp { order, .. } => ("top_up", order),
        Finding::UnappliedPayment(payment) => ("payment", payment),
        Finding::ApiKey(key) => ("api_key", key),
        Finding::AuditEvent(id) => ("event", id),
    };
    format!("{} {id}", texts.word("finding", kind))
}
