//! The way to an account, a charge or a top-up by its id.

use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};

use super::desk::Desk;
use crate::{
    console::{
        layout::Tool,
        link::{Encoded, link},
    },
    service::proto::GetRechargeOrderRequest,
    texts::Texts,
};

/// With the id of an order, leads on to its page, which names its user.
pub(super) async fn show(desk: Desk) -> Result<Response, Response> {
    let order_id = desk.parameter("order_id");
    if !order_id.is_empty() {
        let request = GetRechargeOrderRequest { order_id: order_id.into(), user_id: String::new() };
        let order = desk.ok(desk.console.api.recharges.get_recharge_order(request).await)?;
        let path = format!("/console/top-ups/{}", Encoded(&order.order_id));
        return Ok(Redirect::to(&link(&path, &[("user_id", &order.user_id)])).into_response());
    }
    let texts = desk.texts;
    let content = html! {
        h1 { (texts.get("find.title")) }
        (form(texts, "/console", texts.get("find.account"), &[("user_id", texts.get("account.id"))]))
        (form(texts, "/console/charge", texts.get("find.charge"), &[
            ("user_id", texts.get("account.id")),
            ("trace_id", texts.get("column.trace_id")),
        ]))
        (form(texts, "/console/find", texts.get("find.order"), &[("order_id", texts.get("column.order"))]))
    };
    Ok(desk.respond(Tool::Find, texts.get("find.title"), content))
}

fn form(texts: Texts, action: &str, title: &str, fields: &[(&str, &str)]) -> Markup {
    html! {
        section.card {
            h2 { (title) }
            form.filters method="get" action=(action) {
                @for (name, label) in fields {
                    label { span { (label) } input name=(name) required maxlength="128" autocomplete="off"; }
                }
                button.primary { (texts.get("find.go")) }
            }
        }
    }
}
