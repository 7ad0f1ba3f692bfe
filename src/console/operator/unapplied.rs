//! The unapplied payments.

use axum::response::Response;
use maud::{Markup, html};

use super::{actions, desk::Desk};
use crate::{
    console::{
        controls::{
            self,
            Column::{Number, Text},
            badge,
        },
        format,
        layout::Tool,
        link::link,
    },
    service::proto::{ListUnappliedPaymentsRequest, UnappliedPayment},
    texts::Texts,
};

const PAGE_SIZE: i32 = 25;
const PATH: &str = "/console/unapplied-payments";
/// The states of the contract; without one, the open payments.
const STATES: [&str; 8] = ["open", "conflict", "refunding", "credited", "refunded", "dismissed", "applied", "all"];
/// The states that an operator can resolve.
const RESOLVABLE: [&str; 2] = ["open", "conflict"];

pub(super) async fn list(desk: Desk) -> Result<Response, Response> {
    let status = Some(desk.parameter("status")).filter(|status| !status.is_empty()).unwrap_or(STATES[0]);
    let after = desk.parameter("after");
    let operations = &desk.console.api.recharges;
    let (payments, next) = match desk.parameter("payment_order_id") {
        "" => {
            let request = ListUnappliedPaymentsRequest {
                status: status.to_owned(),
                page_size: PAGE_SIZE,
                page_token: after.to_owned(),
            };
            let reply = desk.ok(operations.list_unapplied_payments(request).await)?;
            (reply.payments, reply.next_page_token)
        }
        payment => {
            let found = desk.ok(operations.unapplied_payment(payment).await)?;
            (vec![found], String::new())
        }
    };
    let texts = desk.texts;
    let page = |after: &str| link(PATH, &[("status", status), ("after", after)]);
    let newest = Some(page("")).filter(|_| !after.is_empty());
    let older = Some(page(&next)).filter(|_| !next.is_empty());
    let choices = STATES.map(|state| (state.to_owned(), texts.word("unapplied_status", state).to_owned()));
    let content = html! {
        h1 { (texts.get("unapplied.title")) }
        form.filters method="get" action=(PATH) {
            (controls::select("status", texts.get("column.status"), "", &choices, status))
            button.primary { (texts.get("filter.apply")) }
        }
        section.card {
            @if payments.is_empty() { p.empty { (texts.get("unapplied.none")) } } @else { (table(&desk, &payments)) }
            (controls::pager(texts, newest, older))
        }
    };
    Ok(desk.respond(Tool::UnappliedPayments, texts.get("unapplied.title"), content))
}

fn state(texts: Texts, status: &str) -> Markup {
    let kind = match status {
        "open" | "refunding" => "warn",
        "conflict" => "bad",
        "credited" | "refunded" | "applied" => "good",
        _ => "neutral",
    };
    badge(kind, texts.word("unapplied_status", status))
}

fn table(desk: &Desk, payments: &[UnappliedPayment]) -> Markup {
    let texts = desk.texts;
    let columns = [
        Text(texts.get("column.time")),
        Number(texts.get("column.amount")),
        Text(texts.get("column.status")),
        Text(texts.get("unapplied.decide")),
        Text(texts.get("unapplied.payment")),
        Number(texts.get("unapplied.times")),
        Text(texts.get("unapplied.cause")),
        Text(texts.get("column.order")),
        Text(texts.get("unapplied.resolution")),
    ];
    let content = html! {
        (controls::columns(&columns))
        tbody {
            @for payment in payments {
                tr {
                    td.time { (format::time(&desk.console.calendar, payment.last_seen_at.as_ref())) }
                    td.number { (format::wire_money(payment.amount)) " " (payment.currency) }
                    td { (state(texts, &payment.status)) }
                    td {
                        @if desk.may_act && RESOLVABLE.contains(&payment.status.as_str()) { (decisions(texts, payment)) }
                    }
                    td { code { (payment.payment_order_id) } }
                    td.number { (format::count(payment.times_seen)) }
                    td { (texts.word("unapplied_cause", &payment.reason)) }
                    td { a href=(link("/console/find", &[("id", &payment.order_id)])) { code { (payment.order_id) } } }
                    td {
                        (payment.resolution)
                        @if !payment.user_id.is_empty() {
                            " " a href=(link("/console", &[("user_id", &payment.user_id)])) { (payment.user_id) }
                        }
                    }
                }
            }
        }
    };
    controls::table(texts.get("unapplied.title"), &content)
}

fn decisions(texts: Texts, payment: &UnappliedPayment) -> Markup {
    // Only an open payment can be given out.
    let choices: &[&str] = if payment.status == "open" { &["credit", "refund", "dismiss"] } else { &["dismiss"] };
    html! {
        ul.row {
            @for choice in choices {
                li {
                    a href=(link(&actions::RESOLVE.path(), &[("payment_order_id", &payment.payment_order_id), ("action", choice)])) {
                        (texts.word("choice", choice))
                    }
                }
            }
        }
    }
}
