//! The consumption records, with filters, page by page, and as CSV.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use futures_util::try_join;
use maud::{Markup, html};

use super::usage_data::{By, groups};
use crate::{
    biz::values::error::Result as Answer,
    console::{
        controls::{
            self,
            Column::{Number, Text},
            badge, select,
        },
        format,
        layout::Section,
        page::Page,
    },
    service::{
        proto::{BillingRecord, GetAccountRequest, ListRecordsReply, ListRecordsRequest},
        rest::csv_headers,
    },
    texts::Texts,
};

const PAGE_SIZE: i32 = 25;
/// The types of records in the contract.
const TYPES: [&str; 4] = ["1", "2", "3", "4"];
/// The parameters of the filters.
const FILTERS: [&str; 6] = ["service", "type", "from", "to", "model", "api_key"];

pub(super) async fn show(page: Page) -> Result<Response, Response> {
    let request =
        ListRecordsRequest { page_size: PAGE_SIZE, page_token: page.parameter("after").to_owned(), ..request(&page) };
    let records = page.console.api.reports.list_records_within(request, page.patience());
    let (reply, choices) = page.ok(try_join!(records, Choices::of(&page)))?;
    let texts = page.texts;
    let is_last = reply.next_page_token.is_empty();
    let nothing = if is_last { texts.get("records.none") } else { texts.get("records.none_here") };
    let content = html! {
        div.line {
            h1 { (texts.get("records.title")) }
            a.button href=(filtered(&page, "/console/records.csv", &[])) { (texts.get("records.csv")) }
        }
        (filters(&page, &choices))
        section.card {
            @if reply.records.is_empty() {
                p.empty { (nothing) }
            } @else {
                (list(&page, &reply))
            }
            (pager(&page, &reply.next_page_token))
        }
    };
    Ok(page.respond(Section::Records, texts.get("records.title"), content))
}

pub(super) async fn export(page: Page) -> Result<Response, Response> {
    let lines = page.ok(page.console.api.reports.export_records(request(&page)).await)?;
    Ok((csv_headers("attachment; filename=\"records.csv\""), Body::from_stream(lines)).into_response())
}

/// The request of the filters. A text that is no number matches no type, so the service refuses it.
fn request(page: &Page) -> ListRecordsRequest {
    let kind = page.parameter("type");
    ListRecordsRequest {
        user_id: page.user.clone(),
        service_name: page.parameter("service").into(),
        r#type: if kind.is_empty() { 0 } else { kind.parse().unwrap_or(-1) },
        from: page.parameter("from").into(),
        to: page.parameter("to").into(),
        model: page.parameter("model").into(),
        api_key_id: page.parameter("api_key").into(),
        ..Default::default()
    }
}

/// An address with the filters of the page.
fn filtered(page: &Page, path: &str, more: &[(&str, &str)]) -> String {
    let mut parameters: Vec<_> = FILTERS.iter().map(|name| (*name, page.parameter(name))).collect();
    parameters.extend(more);
    page.link(path, &parameters)
}

/// The values that filters offer: configured services, and the models and keys of the last 30 days.
struct Choices {
    services: Vec<String>,
    models: Vec<String>,
    keys: Vec<String>,
}

impl Choices {
    async fn of(page: &Page) -> Answer<Self> {
        let account = GetAccountRequest { user_id: page.user.clone() };
        let (account, models, keys) =
            try_join!(page.console.api.accounts.get_account(account), used(page, By::Model), used(page, By::ApiKey))?;
        let services = account.quotas.into_iter().map(|quota| quota.service_name).collect();
        Ok(Self { services, models, keys })
    }
}

/// Most values that a filter offers.
const MAX_CHOICES: usize = 50;

async fn used(page: &Page, by: By) -> Answer<Vec<String>> {
    let (groups, _) = groups(page, by).await?;
    let values = groups.iter().map(|group| by.value(group).to_owned()).filter(|value| !value.is_empty());
    Ok(values.take(MAX_CHOICES).collect())
}

/// The choices of a filter. One that the page has by its address is among them.
fn choices(values: &[String], chosen: &str) -> Vec<(String, String)> {
    let mut values = values.to_vec();
    if !chosen.is_empty() && !values.iter().any(|value| value == chosen) {
        values.push(chosen.to_owned());
    }
    values.into_iter().map(|value| (value.clone(), value)).collect()
}

fn filters(page: &Page, offered: &Choices) -> Markup {
    let texts = page.texts;
    let types = TYPES.map(|kind| (kind.to_owned(), texts.word("record_type", kind).to_owned()));
    let parameter = |name: &str| page.parameter(name);
    let (models, keys) = (choices(&offered.models, parameter("model")), choices(&offered.keys, parameter("api_key")));
    let all = texts.get("filter.all");
    let choice =
        |name: &str, label: &str, choices: Vec<(String, String)>| select(name, label, all, &choices, parameter(name));
    html! {
        form.filters method="get" action="/console/records" {
            @if !page.named().is_empty() { (controls::hidden("user_id", page.named())) }
            (choice("service", texts.get("column.service"), choices(&offered.services, parameter("service"))))
            (choice("type", texts.get("column.type"), types.to_vec()))
            @if !models.is_empty() { (choice("model", texts.get("column.model"), models)) }
            @if !keys.is_empty() { (choice("api_key", texts.get("column.api_key"), keys)) }
            label { span { (texts.get("filter.from")) } input type="date" name="from" value=(parameter("from")); }
            label { span { (texts.get("filter.to")) } input type="date" name="to" value=(parameter("to")); }
            button.primary { (texts.get("filter.apply")) }
            @if FILTERS.iter().any(|name| !parameter(name).is_empty()) {
                a href=(page.link("/console/records", &[])) { (texts.get("filter.clear")) }
            }
        }
    }
}

fn list(page: &Page, reply: &ListRecordsReply) -> Markup {
    let texts = page.texts;
    let columns = [
        Text(texts.get("column.time")),
        Number(texts.get("column.cost")),
        Text(texts.get("column.type")),
        Text(texts.get("column.service")),
        Text(texts.get("column.model")),
        Number(texts.get("column.units")),
        Number(texts.get("column.tokens_in")),
        Number(texts.get("column.tokens_out")),
        Text(texts.get("column.api_key")),
        Text(texts.get("column.trace_id")),
    ];
    let content = html! {
        (controls::columns(&columns))
        tbody { @for record in &reply.records { (row(page, texts, record)) } }
    };
    html! {
        @if reply.total_records > 0 {
            p.quiet { (texts.with("records.total", &[("count", &format::count(reply.total_records))])) }
        }
        (controls::table(texts.get("records.title"), &content))
    }
}

fn row(page: &Page, texts: Texts, record: &BillingRecord) -> Markup {
    let number = record.r#type.to_string();
    let (kind, is_refund) = (texts.word("record_type", &number), record.r#type > 2);
    let tokens = |count: i32| if count == 0 { String::new() } else { format::count(count.into()) };
    let time = format::time(&page.console.calendar, record.created_at.as_ref());
    let charge = page.link("/console/charge", &[("trace_id", &record.trace_id)]);
    html! {
        tr {
            td.time {
                // The trace id may be beyond the edge of a narrow page.
                @if page.is_for_operators() && !record.trace_id.is_empty() { a href=(charge) { (time) } } @else { (time) }
            }
            td.number { (format::wire_money(record.amount)) }
            td {
                (badge(if is_refund { "good" } else { "neutral" }, kind))
                @if !record.late_of.is_empty() { " " (texts.with("records.late_of", &[("month", &record.late_of)])) }
            }
            td { (record.service_name) }
            td.model {
                (record.model)
                @if !record.served_model.is_empty() && record.served_model != record.model {
                    " \u{2192} " (record.served_model)
                }
                @if !record.service_tier.is_empty() { " \u{b7} " (record.service_tier) }
            }
            td.number { (format::count(record.count.into())) }
            td.number { (tokens(record.input_tokens)) }
            td.number { (tokens(record.output_tokens)) }
            td { code { (record.api_key_id) } }
            td {
                @if page.is_for_operators() { a href=(charge) { code { (record.trace_id) } } } @else { code { (record.trace_id) } }
            }
        }
    }
}

fn pager(page: &Page, next: &str) -> Markup {
    let link = |more: &[(&str, &str)]| filtered(page, "/console/records", more);
    let newest = Some(link(&[])).filter(|_| !page.parameter("after").is_empty());
    let older = Some(link(&[("after", next)])).filter(|_| !next.is_empty());
    controls::pager(page.texts, newest, older)
}
