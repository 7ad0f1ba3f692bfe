//! A charge, explained: its request, its split, and the lines of its price.

use axum::response::Response;
use maud::{Markup, html};

use crate::{
    console::{controls, format, layout::Section, page::Page},
    service::proto::{GetTransactionReply, GetTransactionRequest},
};

pub(super) async fn show(page: Page) -> Result<Response, Response> {
    let request = GetTransactionRequest { user_id: page.user.clone(), trace_id: page.parameter("trace_id").to_owned() };
    let charge = page.ok(page.console.api.reservations.get_transaction(request).await)?;
    let texts = page.texts;
    let content = html! {
        h1 { (texts.get("charge.title")) }
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
        @if !charge.price_lines.is_empty() {
            section.card { h2 { (texts.get("charge.lines")) } (lines(&page, &charge)) }
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
        (texts.get("charge.record"), charge.record_id.clone()),
        (texts.get("charge.version"), charge.price_version.clone()),
        (texts.get("charge.plan"), charge.plan.clone()),
    ]
}

fn lines(page: &Page, charge: &GetTransactionReply) -> Markup {
    let texts = page.texts;
    let numbers = [
        texts.get("charge.quantity"),
        texts.get("charge.price"),
        texts.get("charge.factor"),
        texts.get("column.amount"),
    ];
    let content = html! {
        (controls::head(&[texts.get("charge.class")], &numbers, &[]))
        tbody {
            @for line in &charge.price_lines {
                tr {
                    th scope="row" { (texts.word("price_class", &line.class)) }
                    td.number { (format::count(line.tokens)) }
                    td.number { (format::number(line.price)) }
                    td.number { (format::number(line.factor)) }
                    td.number { (format::wire_money(line.amount)) }
                }
            }
            tr.balance {
                th scope="row" colspan="4" { (texts.get("chart.total")) }
                td.number { (format::wire_money(charge.amount)) }
            }
        }
    };
    controls::table(texts.get("charge.lines"), &content)
}
