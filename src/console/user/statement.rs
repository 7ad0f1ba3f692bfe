//! The statement of a month, to read and to print.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use maud::{Markup, html};

use crate::{
    biz::values::calendar::Month,
    console::{
        controls::{self, badge},
        format,
        layout::Section,
        page::Page,
    },
    service::{
        proto::{GetStatementReply, GetStatementRequest, StatementLine},
        rest::csv_headers,
    },
    texts::Texts,
};

fn request(page: &Page) -> GetStatementRequest {
    GetStatementRequest { user_id: page.user.clone(), month: page.parameter("month").into() }
}

pub(super) async fn export(page: Page) -> Result<Response, Response> {
    let lines = page.ok(page.console.api.statements.export_statement(request(&page)).await)?;
    Ok((csv_headers("attachment; filename=\"statement.csv\""), Body::from_stream(lines)).into_response())
}

pub(super) async fn show(page: Page) -> Result<Response, Response> {
    let statement = page.ok(page.console.api.statements.get_statement(request(&page)).await)?;
    let texts = page.texts;
    let title = texts.with("statement.title", &[("month", &statement.month)]);
    let file = page.link("/console/statement.csv", &[("month", &statement.month)]);
    let content = html! {
        div.line.screen {
            (months(&page, &statement.month))
            p.actions {
                a.button href=(file) { (texts.get("records.csv")) }
                button type="button" data-print hidden { (texts.get("statement.print")) }
            }
        }
        article.card.paper {
            header.line {
                h1 { (title) }
                @if statement.closed { (badge("good", texts.get("statement.closed"))) }
                @else { (badge("warn", texts.get("statement.open"))) }
            }
            dl.facts {
                dt { (texts.get("nav.account")) } dd { (statement.user_id) }
                dt { (texts.get("statement.currency")) } dd { (statement.currency) }
                dt { (texts.get("statement.zone")) } dd { (statement.time_zone) }
            }
            (table(texts, &statement))
            @if !statement.by_model { p.quiet { (texts.get("statement.summed")) } }
        }
    };
    Ok(page.respond(Section::Statement, &title, content))
}

/// The choice of a month.
fn months(page: &Page, month: &str) -> Markup {
    let texts = page.texts;
    let parsed: Option<Month> = month.parse().ok();
    let running = page.console.calendar.now().month;
    let link = |month: Month| page.link("/console/statement", &[("month", &month.to_string())]);
    html! {
        form.filters method="get" action="/console/statement" data-apply {
            @if !page.named().is_empty() { (controls::hidden("user_id", page.named())) }
            @if let Some(month) = parsed {
                a.button href=(link(month.previous())) { (texts.get("statement.earlier")) }
            }
            @if let Some(next) = parsed.map(Month::next).filter(|next| *next <= running) {
                a.button href=(link(next)) { (texts.get("statement.later")) }
            }
            label { span { (texts.get("statement.month")) }
                input type="month" name="month" value=(month) max=(running) pattern="[0-9]{4}-[0-9]{2}";
            }
            button { (texts.get("statement.show")) }
        }
    }
}

fn table(texts: Texts, statement: &GetStatementReply) -> Markup {
    let balance = |name: &str, amount: f64| {
        html! {
            tr.balance { th scope="row" { (name) } td.number { (format::wire_money(amount)) } td colspan="5" {} }
        }
    };
    let numbers = [
        texts.get("column.amount"),
        texts.get("statement.number"),
        texts.get("column.free"),
        texts.get("column.paid"),
        texts.get("column.tokens_in"),
        texts.get("column.tokens_out"),
    ];
    let content = html! {
        (controls::head(&[texts.get("statement.line")], &numbers, &[]))
        tbody {
            (balance(texts.get("statement.opening"), statement.opening_balance))
            @for line in &statement.lines { (row(texts, line)) }
            (balance(texts.get("statement.closing"), statement.closing_balance))
        }
    };
    controls::table(texts.get("nav.statement"), &content)
}

fn row(texts: Texts, line: &StatementLine) -> Markup {
    let number = |count: i64| if count == 0 { String::new() } else { format::count(count) };
    html! {
        tr {
            th scope="row" {
                (texts.word("kind", &line.kind))
                @if !line.service_name.is_empty() { " \u{b7} " (line.service_name) }
                @if !line.model.is_empty() { " \u{b7} " (line.model) }
                @if !line.late_of.is_empty() { " " (texts.with("records.late_of", &[("month", &line.late_of)])) }
            }
            td.number { (format::wire_money(line.amount)) }
            @for count in [line.calls, line.free_count, line.paid_count, line.input_tokens, line.output_tokens] {
                td.number { (number(count)) }
            }
        }
    }
}
