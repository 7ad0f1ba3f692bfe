//! A webhook: its state, its last deliveries, and the forms of its changes.

use axum::{
    extract::Path,
    response::{IntoResponse, Redirect, Response},
};
use http::StatusCode;
use maud::{Markup, html};

use super::{
    desk::Desk,
    webhook_form::{PATH, Values, expected_of, form, path_of, problem, stale, version_of},
};
use crate::{
    biz::{
        values::{error::Error, invalid::Invalid},
        webhooks::{
            changes::no_webhook,
            secret::{DEFAULT_OVERLAP, MAX_OVERLAP_HOURS},
        },
    },
    console::{
        controls::{
            self,
            Column::{Number, Text},
            PROOF, badge, hidden,
        },
        form::Fields,
        format,
        layout::Tool,
        link::link,
    },
    service::{
        errors,
        proto::{
            DeleteWebhookRequest, ListWebhookDeliveriesRequest, ListWebhooksRequest, PutWebhookRequest,
            RedeliverWebhookRequest, TestWebhookRequest, Webhook, WebhookDelivery,
        },
        timestamp::Timestamp,
    },
    texts::Texts,
};

const PAGE_SIZE: i32 = 50;
/// The notices after a change.
const DONE: [&str; 4] = ["saved", "tested", "redelivered", "restarted"];

/// The webhook with an id, if there is one.
pub(super) async fn find(desk: &Desk, id: &str) -> Result<Option<Webhook>, Error> {
    let reply = desk.console.api.webhooks.list_webhooks(ListWebhooksRequest {}, desk.actor.clone()).await?;
    Ok(reply.webhooks.into_iter().find(|webhook| webhook.webhook_id == id))
}

pub(super) async fn show(desk: Desk, Path(id): Path<String>) -> Result<Response, Response> {
    page(&desk, &id, (None, None)).await
}

/// The page of a webhook. The form has `values`, or the stored ones.
pub(super) async fn page(
    desk: &Desk,
    id: &str,
    (values, wrong): (Option<&Values>, Option<&Error>),
) -> Result<Response, Response> {
    let found = desk.ok(find(desk, id).await)?;
    let webhook = desk.ok(found.ok_or_else(|| no_webhook().into()))?;
    let outcome = desk.parameter("outcome").to_owned();
    let request = ListWebhookDeliveriesRequest { webhook_id: id.into(), outcome: outcome.clone(), limit: PAGE_SIZE };
    let deliveries = desk.ok(desk.console.api.webhooks.list_webhook_deliveries(request).await)?.deliveries;
    let stored = Values::of_webhook(&webhook);
    let values = values.map(|values| Values { version: stored.version.clone(), ..values.clone() });
    let texts = desk.texts;
    let content = html! {
        h1 { (texts.with("webhooks.one", &[("id", &webhook.webhook_id)])) }
        @if let Some(done) = DONE.iter().find(|done| **done == desk.parameter("done")) {
            p.notice role="status" { (texts.word("webhooks_done", done)) }
        }
        (problem(texts, wrong))
        section.card { h2 { (texts.get("webhooks.state")) } (facts(desk, &webhook)) }
        section.card {
            h2 { (texts.get("webhooks.deliveries")) }
            (outcomes(texts, &webhook.webhook_id, &outcome))
            @if deliveries.is_empty() { p.empty { (texts.get("webhooks.no_deliveries")) } }
            @else { (table(desk, &webhook, &deliveries)) }
        }
        @if desk.may_act {
            section.card { h2 { (texts.get("webhooks.actions")) } (actions(desk, &webhook)) }
            section.card { h2 { (texts.get("webhooks.change")) } (form(desk, values.as_ref().unwrap_or(&stored))) }
        }
    };
    let status = wrong.map_or(StatusCode::OK, |error| errors::kind(error).http);
    Ok(desk.respond_with(status, Some(Tool::Webhooks), "", &webhook.webhook_id, content))
}

/// The state in a colour.
pub(super) fn state(texts: Texts, state: &str) -> Markup {
    let kind = match state {
        "active" => "good",
        "failing" => "warn",
        "failed" => "bad",
        _ => "neutral",
    };
    badge(kind, texts.word("webhook_state", state))
}

fn facts(desk: &Desk, webhook: &Webhook) -> Markup {
    let (texts, calendar) = (desk.texts, &desk.console.calendar);
    let types = match webhook.types.is_empty() {
        true => texts.get("filter.all").to_owned(),
        false => webhook.types.join(", "),
    };
    let facts = [
        (texts.get("webhooks.url"), webhook.url.clone()),
        (texts.get("webhooks.types"), types),
        (texts.get("audit.reason"), webhook.reason.clone()),
        (texts.get("webhooks.failed_at"), format::time(calendar, webhook.failed_at.as_ref())),
        (texts.get("webhooks.failing_since"), format::time(calendar, webhook.failing_since.as_ref())),
        (texts.get("webhooks.failures"), format::count(webhook.failures.into())),
        (texts.get("webhooks.behind"), format::count(webhook.behind)),
        (texts.get("webhooks.held_back_users"), format::count(webhook.held_back_users.into())),
        (texts.get("webhooks.failed_users"), format::count(webhook.failed_users.into())),
        (texts.get("webhooks.replaced_until"), format::time(calendar, webhook.replaced_secret_until.as_ref())),
        (texts.get("webhooks.updated"), format::time(calendar, webhook.updated_at.as_ref())),
    ];
    html! {
        dl.facts {
            dt { (texts.get("column.status")) } dd { (state(texts, &webhook.state)) }
            @for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) { dt { (name) } dd { (value) } }
        }
    }
}

/// The links to the lists of each outcome.
fn outcomes(texts: Texts, id: &str, shown: &str) -> Markup {
    let choices = [
        ("", texts.get("filter.all")),
        ("accepted", texts.get("webhooks.accepted")),
        ("failed", texts.get("webhooks.failed")),
    ];
    html! {
        nav.actions aria-label=(texts.get("webhooks.outcome")) {
            @for (outcome, name) in choices {
                a href=(link(&path_of(id), &[("outcome", outcome)])) aria-current=[(outcome == shown).then_some("true")] {
                    (name)
                }
            }
        }
    }
}

fn table(desk: &Desk, webhook: &Webhook, deliveries: &[WebhookDelivery]) -> Markup {
    let texts = desk.texts;
    let again_column = desk.may_act.then(|| Text(texts.get("webhooks.again")));
    let first = [Text(texts.get("column.time")), Text(texts.get("webhooks.outcome"))];
    let further = [
        Text(texts.get("column.type")),
        Text(texts.get("nav.account")),
        Number(texts.get("webhooks.took")),
        Text(texts.get("webhooks.next")),
        Text(texts.get("webhooks.event")),
    ];
    let columns: Vec<_> = first.into_iter().chain(again_column).chain(further).collect();
    let content = html! {
        (controls::columns(&columns))
        tbody {
            @for delivery in deliveries {
                tr {
                    td.time { (format::time(&desk.console.calendar, delivery.began_at.as_ref())) }
                    td { (outcome(texts, delivery)) }
                    @if desk.may_act {
                        td { @if delivery.r#type != crate::biz::webhooks::TEST_TYPE { (again(desk, webhook, delivery)) } }
                    }
                    td { code { (delivery.r#type) } }
                    td {
                        @if !delivery.user_id.is_empty() {
                            a href=(link("/console", &[("user_id", &delivery.user_id)])) { (delivery.user_id) }
                        }
                    }
                    td.number { (format::count(delivery.took_ms.into())) }
                    td.time { (format::time(&desk.console.calendar, delivery.next_at.as_ref())) }
                    td.id { code { (delivery.event_id) } }
                }
            }
        }
    };
    controls::table(texts.get("webhooks.deliveries"), &content)
}

fn outcome(texts: Texts, delivery: &WebhookDelivery) -> Markup {
    let status = if delivery.status == 0 { String::new() } else { format!(" {}", delivery.status) };
    match delivery.accepted {
        true => badge("good", &format!("{}{status}", texts.get("webhooks.accepted"))),
        false => badge("bad", &format!("{}{status}", texts.word("webhook_failure", &delivery.failure))),
    }
}

fn again(desk: &Desk, webhook: &Webhook, delivery: &WebhookDelivery) -> Markup {
    html! {
        form method="post" action=(format!("{}/redeliver", path_of(&webhook.webhook_id))) {
            (hidden(PROOF, &desk.proof)) (hidden("event_id", &delivery.event_id))
            button.plain { (desk.texts.get("webhooks.send_again")) }
        }
    }
}

fn actions(desk: &Desk, webhook: &Webhook) -> Markup {
    let (texts, path) = (desk.texts, path_of(&webhook.webhook_id));
    html! {
        div.actions {
            form method="post" action=(format!("{path}/test")) {
                (hidden(PROOF, &desk.proof)) button { (texts.get("webhooks.test")) }
            }
            form method="post" action=(format!("{path}/redeliver")) {
                (hidden(PROOF, &desk.proof)) button { (texts.get("webhooks.restart")) }
            }
        }
        p.quiet { (texts.get("webhooks.restart_about")) }
        form.filters method="post" action=(format!("{path}/rotate")) {
            (hidden(PROOF, &desk.proof)) (hidden("version", &version_of(webhook)))
            label { span { (texts.get("webhooks.overlap")) }
                input type="number" name="overlap_hours" min="0" max=(MAX_OVERLAP_HOURS) required
                    value=(DEFAULT_OVERLAP.num_hours());
            }
            button { (texts.get("webhooks.rotate")) }
        }
        p.quiet { (texts.get("webhooks.rotate_about")) }
        form.filters method="post" action=(format!("{path}/delete")) {
            (hidden(PROOF, &desk.proof)) (hidden("version", &version_of(webhook)))
            label.choice { input type="checkbox" name="confirmed" value="on" required; " " (texts.get("webhooks.delete_confirm")) }
            button { (texts.get("webhooks.delete")) }
        }
    }
}

/// The page that shows a new secret, once.
pub(super) fn secret(desk: &Desk, id: &str, secret: &str) -> Response {
    let texts = desk.texts;
    let content = html! {
        section.narrow.card {
            h1 { (texts.with("webhooks.secret", &[("id", &id)])) }
            p.notice role="status" { (texts.get("webhooks.secret_once")) }
            p { code #secret { (secret) } }
            p { a.button href=(path_of(id)) { (texts.get("webhooks.secret_go")) } }
        }
    };
    desk.respond(Tool::Webhooks, texts.get("webhooks.title"), content)
}

pub(super) async fn test(desk: Desk, Path(id): Path<String>, _: Fields) -> Result<Response, Response> {
    let request = TestWebhookRequest { webhook_id: id.clone() };
    let (origin, actor) = (desk.origin.clone(), desk.actor.clone());
    let done = desk.console.api.webhooks.test_webhook(request, origin, actor).await;
    answer(&desk, &id, done.map(|_| "tested")).await
}

/// Sends an event once more, or without one all that waits.
pub(super) async fn redeliver(desk: Desk, Path(id): Path<String>, fields: Fields) -> Result<Response, Response> {
    let event_id = fields.text("event_id").to_owned();
    let done = if event_id.is_empty() { "restarted" } else { "redelivered" };
    let request = RedeliverWebhookRequest { webhook_id: id.clone(), event_id };
    let (origin, actor) = (desk.origin.clone(), desk.actor.clone());
    let answered = desk.console.api.webhooks.redeliver_webhook(request, origin, actor).await;
    answer(&desk, &id, answered.map(|_| done)).await
}

/// Makes a new secret and shows it. A form that was sent before makes no further one.
pub(super) async fn rotate(desk: Desk, Path(id): Path<String>, fields: Fields) -> Result<Response, Response> {
    let rotate = async {
        let hours = fields.text("overlap_hours").parse();
        let hours = hours.map_err(|_| Invalid::new("overlap_hours", format!("must be 0 to {MAX_OVERLAP_HOURS}")))?;
        let request = PutWebhookRequest {
            webhook_id: id.clone(),
            rotate_secret: true,
            overlap_hours: Some(hours),
            expected_updated_at: Some(seen(&fields)),
            ..Default::default()
        };
        let put = desk.console.api.webhooks.put_webhook(request, desk.actor.clone()).await;
        Ok(put.map_err(|error| stale(&desk, error, true))?.secret)
    };
    match rotate.await {
        Ok(new) => Ok(secret(&desk, &id, &new)),
        Err(error) => answer(&desk, &id, Err(error)).await,
    }
}

pub(super) async fn delete(desk: Desk, Path(id): Path<String>, fields: Fields) -> Result<Response, Response> {
    let delete = async {
        if fields.text("confirmed").is_empty() {
            return Err(Invalid::new("confirmed", desk.texts.get("webhooks.delete_confirm")).into());
        }
        let request = DeleteWebhookRequest { webhook_id: id.clone(), expected_updated_at: Some(seen(&fields)) };
        let deleted = desk.console.api.webhooks.delete_webhook(request, desk.actor.clone()).await;
        deleted.map_err(|error| stale(&desk, error, false))
    };
    match delete.await {
        Ok(_) => Ok(Redirect::to(PATH).into_response()),
        Err(error) => answer(&desk, &id, Err(error)).await,
    }
}

/// The last change of the webhook that the form shows. A form without it is refused.
fn seen(fields: &Fields) -> Timestamp {
    expected_of(fields.text("version")).unwrap_or_default()
}

/// Leads back to the page, so that a reload repeats nothing; or shows the reason of a refusal there.
async fn answer(desk: &Desk, id: &str, done: Result<&str, Error>) -> Result<Response, Response> {
    match done {
        Ok(done) => Ok(Redirect::to(&link(&path_of(id), &[("done", done)])).into_response()),
        Err(error) => {
            errors::log(&error, desk.request());
            page(desk, id, (None, Some(&error))).await
        }
    }
}
