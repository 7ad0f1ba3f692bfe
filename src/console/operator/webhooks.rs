//! The webhooks of this service, and the form of a new one.

use axum::response::{IntoResponse, Redirect, Response};
use http::StatusCode;
use maud::{Markup, html};

use super::{
    desk::Desk,
    webhook,
    webhook_form::{PATH, Values, form, path_of, problem, stale},
};
use crate::{
    biz::values::{error::Error, invalid::Invalid},
    console::{
        controls::{
            self,
            Column::{Number, Text},
        },
        form::Fields,
        format,
        layout::Tool,
        link::link,
    },
    service::{
        errors,
        proto::{ListWebhooksRequest, Webhook},
    },
};

const PAGE_SIZE: usize = 50;

pub(super) async fn list(desk: Desk) -> Result<Response, Response> {
    show(&desk, &Values { is_active: true, ..Values::default() }, None).await
}

async fn show(desk: &Desk, values: &Values, wrong: Option<&Error>) -> Result<Response, Response> {
    let api = &desk.console.api.webhooks;
    let reply = desk.ok(api.list_webhooks(ListWebhooksRequest {}, desk.actor.clone()).await)?;
    let (texts, after) = (desk.texts, desk.parameter("after"));
    // Ordered by id.
    let mut rest = reply.webhooks.iter().filter(|webhook| webhook.webhook_id.as_str() > after);
    let page: Vec<&Webhook> = rest.by_ref().take(PAGE_SIZE).collect();
    let newest = (!after.is_empty()).then(|| PATH.to_owned());
    let last = page.last().filter(|_| rest.next().is_some());
    let older = last.map(|last| link(PATH, &[("after", &last.webhook_id)]));
    let content = html! {
        h1 { (texts.get("webhooks.title")) }
        section.card {
            @if page.is_empty() { p.empty { (texts.get("webhooks.none")) } } @else { (table(desk, &page)) }
            (controls::pager(texts, newest, older))
        }
        @if desk.may_act {
            section.card {
                h2 { (texts.get("webhooks.new")) }
                (problem(texts, wrong))
                (form(desk, values))
            }
        }
    };
    let status = wrong.map_or(StatusCode::OK, |error| errors::kind(error).http);
    Ok(desk.respond_with(status, Some(Tool::Webhooks), "", texts.get("webhooks.title"), content))
}

fn table(desk: &Desk, webhooks: &[&Webhook]) -> Markup {
    let texts = desk.texts;
    let columns = [
        Text(texts.get("webhooks.id")),
        Text(texts.get("column.status")),
        Number(texts.get("webhooks.behind")),
        Number(texts.get("webhooks.held_back_users")),
        Number(texts.get("webhooks.failed_users")),
        Text(texts.get("webhooks.url")),
        Text(texts.get("webhooks.failing_since")),
    ];
    let content = html! {
        (controls::columns(&columns))
        tbody {
            @for webhook in webhooks {
                tr {
                    th scope="row" { a href=(path_of(&webhook.webhook_id)) { (webhook.webhook_id) } }
                    td { (webhook::state(texts, &webhook.state)) }
                    td.number { (format::count(webhook.behind)) }
                    td.number { (format::count(webhook.held_back_users.into())) }
                    td.number { (format::count(webhook.failed_users.into())) }
                    td { code { (webhook.url) } }
                    td.time { (format::time(&desk.console.calendar, webhook.failing_since.as_ref())) }
                }
            }
        }
    };
    controls::table(texts.get("webhooks.title"), &content)
}

/// Makes or changes a webhook. A form that was made before another change is refused.
pub(super) async fn put(desk: Desk, fields: Fields) -> Result<Response, Response> {
    let values = Values::of_form(&fields);
    let done = change(&desk, &values).await;
    match done {
        Ok((id, secret)) if secret.is_empty() => {
            Ok(Redirect::to(&link(&path_of(&id), &[("done", "saved")])).into_response())
        }
        Ok((id, secret)) => Ok(webhook::secret(&desk, &id, &secret)),
        Err(error) => {
            errors::log(&error, desk.request());
            match values.version.is_empty() {
                true => show(&desk, &values, Some(&error)).await,
                false => webhook::page(&desk, &values.id, (Some(&values), Some(&error))).await,
            }
        }
    }
}

async fn change(desk: &Desk, values: &Values) -> Result<(String, String), Error> {
    // The rpc would keep the stored URL and types, and not those of the form.
    if values.url.is_empty() {
        return Err(Invalid::new("url", "is required").into());
    }
    let put = desk.console.api.webhooks.put_webhook(values.request(), desk.actor.clone()).await;
    let is_new = values.version.is_empty();
    Ok((values.id.clone(), put.map_err(|error| stale(desk, error, is_new))?.secret))
}
