//! The top-ups of an account: the list, one of them while its payment is awaited, and the way to its pay page.

use axum::{
    extract::Path,
    response::{IntoResponse, Redirect, Response},
};
use futures_util::try_join;
use maud::{Markup, html};

use super::top_up::balance;
use crate::{
    biz::values::error::Result as Answer,
    console::{
        controls::{
            self,
            Column::{Number, Text},
            amount, badge,
        },
        format,
        layout::Section,
        link::{Encoded, link},
        operator::REFUND_TOP_UP,
        page::Page,
    },
    service::proto::{
        GetAccountRequest, GetRechargeOrderRequest, ListRechargeOrdersReply, ListRechargeOrdersRequest, RechargeOrder,
    },
    texts::Texts,
};

const PAGE_SIZE: i32 = 20;
/// The seconds between two looks at a pending order, and the number of looks: two minutes.
const WAIT_SECONDS: u32 = 3;
const MAX_WAITS: u32 = 40;
const PENDING: &str = "pending";

pub(super) async fn list(page: Page) -> Result<Response, Response> {
    let request = ListRechargeOrdersRequest {
        user_id: page.user.clone(),
        page_size: PAGE_SIZE,
        page_token: page.parameter("after").into(),
        ..Default::default()
    };
    let reply = page.ok(page.console.api.recharges.list_recharge_orders(request).await)?;
    let texts = page.texts;
    let at = |after: &str| page.link("/console/top-ups", &[("after", after)]);
    let newest = Some(at("")).filter(|_| !page.parameter("after").is_empty());
    let older = Some(at(&reply.next_page_token)).filter(|_| !reply.next_page_token.is_empty());
    let content = html! {
        div.line {
            h1 { (texts.get("top_ups.title")) }
            @if !page.is_read_only {
                a.button.primary href=(page.link("/console/top-up", &[])) { (texts.get("top_up.title")) }
            }
        }
        section.card {
            @if reply.orders.is_empty() { p.empty { (texts.get("top_ups.none")) } } @else { (table(&page, &reply)) }
            (controls::pager(texts, newest, older))
        }
    };
    Ok(page.respond(Section::TopUps, texts.get("top_ups.title"), content))
}

fn table(page: &Page, reply: &ListRechargeOrdersReply) -> Markup {
    let texts = page.texts;
    let columns = [
        Text(texts.get("column.time")),
        Number(texts.get("column.amount")),
        Text(texts.get("column.status")),
        Number(texts.get("column.refunded")),
        Text(texts.get("column.method")),
        Text(texts.get("column.order")),
    ];
    let content = html! {
        (controls::columns(&columns))
        tbody {
            @for order in &reply.orders {
                tr {
                    @let address = address(page, &order.order_id, "");
                    td.time {
                        // The order may be beyond the edge of a narrow page.
                        a href=(address) { (format::time(&page.console.calendar, order.created_at.as_ref())) }
                    }
                    td.number { (format::wire_money(order.amount)) }
                    td { (status(texts, &order.status)) }
                    td.number { (format::wire_money(order.refunded_amount)) }
                    td { (texts.word("method", &order.payment_method)) }
                    td { a href=(address) { code { (order.order_id) } } }
                }
            }
        }
    };
    controls::table(texts.get("top_ups.title"), &content)
}

/// The address of the page of an order.
fn address(page: &Page, order: &str, more: &str) -> String {
    page.link(&format!("/console/top-ups/{}{more}", Encoded(order)), &[])
}

fn status(texts: Texts, status: &str) -> Markup {
    let kind = match status {
        "success" => "good",
        PENDING => "warn",
        "failed" | "expired" => "bad",
        _ => "neutral",
    };
    badge(kind, texts.word("order_status", status))
}

async fn order(page: &Page, order_id: String) -> Answer<RechargeOrder> {
    let request = GetRechargeOrderRequest { order_id, user_id: page.user.clone() };
    page.console.api.recharges.get_recharge_order(request).await
}

/// An order. While it is pending, the page looks again by itself, for a while.
pub(super) async fn show(page: Page, Path(order_id): Path<String>) -> Result<Response, Response> {
    let account = GetAccountRequest { user_id: page.user.clone() };
    let read = try_join!(order(&page, order_id), page.console.api.accounts.get_account(account));
    let (order, account) = page.ok(read)?;
    let (texts, is_pending) = (page.texts, order.status == PENDING);
    let waits: u32 = page.parameter("wait").parse().unwrap_or(0);
    let path = format!("/console/top-ups/{}", Encoded(&order.order_id));
    let next = page.link(&path, &[("wait", &(waits.min(MAX_WAITS) + 1).to_string())]);
    let follows = (is_pending && waits < MAX_WAITS).then_some((WAIT_SECONDS, next.as_str()));
    let balance = balance(&page, &account);
    let title = match order.status.as_str() {
        PENDING => texts.get("top_ups.waiting"),
        "success" if page.is_for_operators() => texts.word("order_status", "success"),
        "success" => texts.get("top_ups.credited"),
        _ => texts.get("top_ups.one"),
    };
    let content = html! {
        section.narrow.card {
            h1 { (title) }
            (amount(format::amount(order.amount), &order.currency))
            (facts(&page, &order))
            @if is_pending {
                (waiting(&page, &order, follows.is_some()))
            } @else {
                p role="status" { (balance) }
            }
            @if page.may_act && order.status == "success" {
                p {
                    a.button href=(link(&REFUND_TOP_UP.path(), &[("order_id", &order.order_id)])) {
                        (texts.word("action_title", REFUND_TOP_UP.name))
                    }
                }
            }
            p { a href=(page.link("/console/top-ups", &[])) { (texts.get("top_ups.all")) } }
        }
    };
    Ok(page.respond_and_follow(Section::TopUps, title, follows, content))
}

fn waiting(page: &Page, order: &RechargeOrder, looks_again: bool) -> Markup {
    let texts = page.texts;
    let words = if looks_again { texts.get("top_ups.looks_again") } else { texts.get("top_ups.stopped") };
    html! {
        p role="status" { (words) }
        p.actions {
            @if !order.payment_url.is_empty() && !page.is_read_only {
                a.button.primary href=(address(page, &order.order_id, "/pay")) { (texts.get("top_ups.pay")) }
            }
            @if !looks_again {
                a.button href=(address(page, &order.order_id, "")) { (texts.get("top_ups.look")) }
            }
        }
    }
}

fn facts(page: &Page, order: &RechargeOrder) -> Markup {
    let texts = page.texts;
    html! {
        dl.facts {
            dt { (texts.get("column.status")) } dd { (status(texts, &order.status)) }
            dt { (texts.get("column.order")) } dd { code { (order.order_id) } }
            dt { (texts.get("column.method")) } dd { (texts.word("method", &order.payment_method)) }
            dt { (texts.get("column.time")) } dd { (format::time(&page.console.calendar, order.created_at.as_ref())) }
            @if order.refunded_amount != 0.0 {
                dt { (texts.get("column.refunded")) }
                dd { (format::wire_money(order.refunded_amount)) " " (order.currency) }
            }
        }
    }
}

/// Leads on to the pay page. A form may not do it itself: the policy of the pages lets forms lead to this console
/// alone, and a browser applies it to redirects too.
pub(super) async fn pay(page: Page, Path(order_id): Path<String>) -> Result<Response, Response> {
    let order = page.ok(order(&page, order_id).await)?;
    if order.status != PENDING || order.payment_url.is_empty() {
        return Ok(Redirect::to(&address(&page, &order.order_id, "")).into_response());
    }
    let texts = page.texts;
    let url = Some(order.payment_url.as_str()).filter(|url| is_web(url));
    let title = texts.get("top_ups.leaving");
    let content = html! {
        section.narrow.card {
            h1 { (title) }
            (amount(format::amount(order.amount), &order.currency))
            @if let Some(url) = url {
                p { (texts.get("top_ups.leaving_about")) }
                p.actions { a.button.primary rel="noreferrer" href=(url) { (texts.get("top_ups.pay")) } }
            } @else {
                p { (texts.get("top_ups.code_about")) }
                p { code.wide { (order.payment_url) } }
                p.actions {
                    a.button.primary href=(address(&page, &order.order_id, "")) { (texts.get("top_ups.paid")) }
                }
            }
        }
    };
    Ok(page.respond_and_follow(Section::TopUps, title, url.map(|url| (1, url)), content))
}

/// Whether payment-service named a page. For some methods it names the content of a QR code.
fn is_web(url: &str) -> bool {
    let begins = |scheme: &str| url.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    (begins("https://") || begins("http://")) && url.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_web_pages_are_led_to() {
        for good in ["http://a", "HTTPS://a/b?c=d"] {
            assert!(is_web(good), "{good}");
        }
        for bad in ["", "javascript:alert(1)", "weixin://wxpay/x", " http://a", "http://a b", "data:text/html,x"] {
            assert!(!is_web(bad), "{bad}");
        }
    }
}
