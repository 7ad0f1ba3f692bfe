//! A charge, explained: its request, its split, the lines of its price, the reports of its stream, its records and
//! refunds, and the state of its account in the database and in the caches.

use axum::response::Response;
use chrono::{DateTime, Utc};
use maud::{Markup, html};

use super::actions;
use crate::{
    biz::{
        check::cache::{Inspected, entry::AccountEntry},
        settlement::transaction::ChargedBy,
    },
    console::{
        controls::{self, badge},
        format,
        layout::Section,
        link::link,
        page::Page,
    },
    service::{
        ChargeFacts, StreamFacts,
        proto::{GetTransactionReply, GetTransactionRequest, Usage},
    },
};

/// The status of a charge that can be refunded.
const COMMITTED: &str = "COMMITTED";

pub(super) async fn show(page: Page) -> Result<Response, Response> {
    let request = GetTransactionRequest { user_id: page.user.clone(), trace_id: page.parameter("trace_id").to_owned() };
    let charge = page.ok(page.console.api.reservations.get_transaction(request).await)?;
    let behind = page.ok(page.console.api.operations.charge_facts(&charge).await)?;
    let texts = page.texts;
    let content = html! {
        div.line {
            h1 { (texts.get("charge.title")) }
            @if page.may_act && charge.status == COMMITTED {
                a.button href=(link(&actions::REFUND.path(), &[("user_id", &charge.user_id), ("trace_id", &charge.trace_id)])) {
                    (texts.get("charge.refund"))
                }
            }
        }
        div.halves {
            section.card {
                h2 { (texts.get("charge.request")) }
                (facts(&[
                    (texts.get("column.trace_id"), charge.trace_id.clone()),
                    (texts.get("column.time"), format::time(&page.console.calendar, charge.created_at.as_ref())),
                    (texts.get("column.status"), texts.word("transaction_status", &charge.status).to_owned()),
                    (texts.get("column.service"), charge.service_name.clone()),
                    (texts.get("column.model"), charge.model.clone()),
                    (texts.get("charge.served_model"), charge.served_model.clone()),
                    (texts.get("charge.tier"), charge.service_tier.clone()),
                    (texts.get("column.api_key"), charge.api_key_id.clone()),
                    (texts.get("column.units"), format::count(charge.count.into())),
                ]))
            }
            section.card {
                h2 { (texts.get("charge.split")) }
                (facts(&split(&page, &charge)))
            }
        }
        @if !charge.price_lines.is_empty() {
            section.card { h2 { (texts.get("charge.lines")) } (lines(&page, &charge)) }
        }
        @if let Some(usage) = &charge.usage {
            section.card {
                h2 {
                    @if charge.status == COMMITTED { (texts.get("charge.usage")) }
                    @else { (texts.get("charge.reported")) }
                }
                (facts(&tokens(&page, usage)))
            }
        }
        @if let Some(of_stream) = &behind.stream {
            section.card { h2 { (texts.get("charge.stream")) } (facts(&stream(&page, &charge, of_stream))) }
        }
        @if !behind.records.is_empty() {
            section.card { h2 { (texts.get("nav.records")) } (records(&page, &behind)) }
        }
        @if !behind.refunds.is_empty() {
            section.card { h2 { (texts.get("charge.refunds")) } (refunds(&page, &behind)) }
        }
        section.card {
            h2 { (texts.get("charge.account_now")) }
            (places(&page, &charge, &behind.account))
        }
    };
    Ok(page.respond(Section::Records, texts.get("charge.title"), content))
}

fn facts(facts: &[(&str, String)]) -> Markup {
    html! {
        dl.facts {
            @for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
                dt { (name) } dd { (value) }
            }
        }
    }
}

/// The amounts that the charge took, held and gave back.
fn split<'p>(page: &'p Page, charge: &GetTransactionReply) -> Vec<(&'p str, String)> {
    let (texts, currency) = (page.texts, &page.console.settings.currency);
    let money = |amount: f64| format!("{} {currency}", format::wire_money(amount));
    let some = |amount: f64| if amount == 0.0 { String::new() } else { money(amount) };
    let count = |count: i32| if count == 0 { String::new() } else { format::count(count.into()) };
    vec![
        (texts.get("column.amount"), money(charge.amount)),
        (texts.get("column.free"), format::count(charge.free_count.into())),
        (texts.get("column.paid"), format::count(charge.paid_count.into())),
        (texts.get("charge.held"), some(charge.held_amount)),
        (texts.get("charge.held_free"), count(charge.held_free_count)),
        (texts.get("charge.expires"), format::time(&page.console.calendar, charge.expires_at.as_ref())),
        (texts.get("charge.shortfall"), some(charge.shortfall)),
        (texts.get("charge.refunded_units"), count(charge.refunded_count)),
        (texts.get("column.refunded"), some(charge.refunded_amount)),
        (texts.get("charge.version"), charge.price_version.clone()),
        (texts.get("charge.plan"), charge.plan.clone()),
    ]
}

fn lines(page: &Page, charge: &GetTransactionReply) -> Markup {
    let texts = page.texts;
    let numbers = [
        texts.get("column.amount"),
        texts.get("charge.quantity"),
        texts.get("charge.price"),
        texts.get("charge.factor"),
    ];
    let content = html! {
        (controls::head(&[texts.get("charge.class")], &numbers, &[]))
        tbody {
            @for line in &charge.price_lines {
                tr {
                    th scope="row" { (texts.word("price_class", &line.class)) }
                    td.number { (format::wire_money(line.amount)) }
                    td.number { (format::count(line.tokens)) }
                    td.number { (format::number(line.price)) }
                    td.number { (format::number(line.factor)) }
                }
            }
            tr.balance {
                th scope="row" { (texts.get("chart.total")) }
                td.number { (format::wire_money(charge.amount)) }
                td colspan="3" {}
            }
        }
    };
    controls::table(texts.get("charge.lines"), &content)
}

/// The tokens of each class.
fn tokens<'p>(page: &'p Page, usage: &Usage) -> Vec<(&'p str, String)> {
    let texts = page.texts;
    let of = |count: i64| if count == 0 { String::new() } else { format::count(count) };
    vec![
        (texts.word("price_class", "input"), of(usage.input_tokens.into())),
        (texts.word("price_class", "cached_input"), of(usage.cached_input_tokens.into())),
        (texts.word("price_class", "cache_write"), of(usage.cache_write_tokens.into())),
        (texts.word("price_class", "cache_write_1h"), of(usage.cache_write_1h_tokens.into())),
        (texts.word("price_class", "audio_input"), of(usage.audio_input_tokens.into())),
        (texts.word("price_class", "output"), of(usage.output_tokens.into())),
        (texts.word("price_class", "reasoning"), of(usage.reasoning_tokens.into())),
        (texts.word("price_class", "audio_output"), of(usage.audio_output_tokens.into())),
        (texts.word("price_class", "image"), of(usage.images.into())),
    ]
}

/// The reports of the stream, and the one that made the charge.
fn stream<'p>(page: &'p Page, charge: &GetTransactionReply, stream: &StreamFacts) -> Vec<(&'p str, String)> {
    let texts = page.texts;
    let mut shown = Vec::new();
    if let Some(reports) = &stream.reports {
        let time = |at: DateTime<Utc>| format::time(&page.console.calendar, Some(&at.into()));
        shown.extend([
            (texts.get("charge.reports"), format::count(reports.count.into())),
            (texts.get("charge.first_report"), time(reports.first_at)),
            (texts.get("charge.last_report"), time(reports.last_at)),
            (texts.get("charge.reported_input"), format::count(reports.input_tokens.into())),
            (texts.get("charge.reported_output"), format::count(reports.output_tokens.into())),
        ]);
    }
    if charge.status == COMMITTED {
        let by = match stream.charged_by {
            ChargedBy::Commit => "commit",
            ChargedBy::Report => "report",
            ChargedBy::Both => "both",
        };
        shown.push((texts.get("charge.charged_by"), texts.word("charged_by", by).to_owned()));
    }
    shown
}

fn records(page: &Page, behind: &ChargeFacts) -> Markup {
    let texts = page.texts;
    let numbers = [texts.get("column.amount"), texts.get("column.units")];
    let more = [texts.get("column.type"), texts.get("charge.record")];
    let content = html! {
        (controls::head(&[texts.get("column.time")], &numbers, &more))
        tbody {
            @for record in &behind.records {
                tr {
                    td.time { (format::time(&page.console.calendar, Some(&record.created_at.into()))) }
                    td.number { (format::money(record.amount)) }
                    td.number { (format::count(record.count.into())) }
                    td { (texts.word("record_type", &(record.kind as i32).to_string())) }
                    td { code { (record.id) } }
                }
            }
        }
    };
    controls::table(texts.get("nav.records"), &content)
}

fn refunds(page: &Page, behind: &ChargeFacts) -> Markup {
    let texts = page.texts;
    let numbers = [texts.get("column.amount"), texts.get("column.free"), texts.get("column.paid")];
    let more = [texts.get("audit.reason"), texts.get("charge.refund_id")];
    let content = html! {
        (controls::head(&[texts.get("column.time")], &numbers, &more))
        tbody {
            @for refund in &behind.refunds {
                tr {
                    td.time { (format::time(&page.console.calendar, Some(&refund.created_at.into()))) }
                    td.number { (format::money(refund.amount)) }
                    td.number { (format::count(refund.free.into())) }
                    td.number { (format::count(refund.paid.into())) }
                    td { (refund.content.reason) }
                    td { code { (refund.id) } }
                }
            }
        }
    };
    controls::table(texts.get("charge.refunds"), &content)
}

/// The account in the database, in the memory of this server and in Redis.
fn places(page: &Page, charge: &GetTransactionReply, account: &Inspected) -> Markup {
    let texts = page.texts;
    let database = account.database.as_ref();
    let near = account.near.as_ref().and_then(|(entry, _)| entry.account());
    let age = account.near.as_ref().map(|(_, age)| texts.with("charge.age", &[("seconds", &age.as_secs())]));
    let shared = account.shared.as_ref().map(|shared| shared.as_ref().ok());
    let in_redis = shared.flatten().and_then(|entry| entry.as_ref()).and_then(|entry| entry.account());
    let row = |place: &str, entry: Option<&AccountEntry>, note: Markup| {
        html! {
            tr {
                th scope="row" { (place) }
                @match entry {
                    Some(entry) => {
                        td.number { (format::count(entry.balance.version)) }
                        td.number { (format::money(entry.balance.amount)) }
                        td.number { (format::money(entry.balance.held)) }
                        td.number { (used(charge, entry)) }
                    }
                    None => { td.number {} td.number {} td.number {} td.number {} }
                }
                td { (note) }
            }
        }
    };
    let agrees = |entry: Option<&AccountEntry>| match (entry, database) {
        (None, _) => html! { span.quiet { (texts.get("charge.no_entry")) } },
        (Some(entry), Some(stored)) if entry.balance.version == stored.balance.version => {
            badge("good", texts.get("charge.agrees"))
        }
        _ => badge("warn", texts.get("charge.differs")),
    };
    let numbers = [
        texts.get("charge.row_version"),
        texts.get("overview.balance"),
        texts.get("charge.held"),
        texts.get("charge.used_free"),
    ];
    let content = html! {
        (controls::head(&[texts.get("charge.place")], &numbers, &[texts.get("column.status")]))
        tbody {
            (row(texts.get("health.database"), database, html! {}))
            (row(texts.get("charge.memory"), near, html! { (agrees(near)) " " (age.unwrap_or_default()) }))
            @match shared {
                None => (row("Redis", None, html! { span.quiet { (texts.get("health.no_redis")) } })),
                Some(None) => (row("Redis", None, badge("bad", texts.get("health.down")))),
                Some(Some(_)) => (row("Redis", in_redis, html! {
                    (agrees(in_redis)) @if account.is_late { " " (badge("warn", texts.get("charge.is_late"))) }
                })),
            }
        }
    };
    controls::table(texts.get("charge.account_now"), &content)
}

/// The used free units of the service of the charge, this month.
fn used(charge: &GetTransactionReply, entry: &AccountEntry) -> String {
    let of_service = entry.quotas.iter().filter(|((_, service), _)| service.as_str() == charge.service_name);
    let latest = of_service.max_by_key(|((month, _), _)| *month);
    latest.map(|(_, quota)| format::count(i64::try_from(quota.used).unwrap_or(i64::MAX))).unwrap_or_default()
}
