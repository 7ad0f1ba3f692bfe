//! The form of a top-up, and its start.

use std::fmt::Display;

use axum::response::{IntoResponse, Redirect, Response};
use http::StatusCode;
use maud::{Markup, html};
use uuid::Uuid;

use super::overview::{ACTIVE, not_active};
use crate::{
    biz::values::{
        error::{Error, Result as Answer},
        invalid::Invalid,
        money::Money,
    },
    console::{
        controls::{PROOF, hidden},
        failure,
        form::Fields,
        format,
        layout::Section,
        link::Encoded,
        page::Page,
    },
    service::{
        errors,
        proto::{GetAccountReply, GetAccountRequest, RechargeRequest},
    },
};

/// The methods of the contract.
const METHODS: [&str; 3] = ["alipay", "wechatpay", "stripe"];

/// The values of the form.
struct Values {
    amount: String,
    method: String,
    /// A form that is sent twice starts one top-up.
    key: String,
}

pub(super) async fn show(page: Page) -> Result<Response, Response> {
    let values =
        Values { amount: page.parameter("amount").into(), method: METHODS[0].into(), key: Uuid::now_v7().to_string() };
    form(&page, values, None).await
}

pub(super) async fn start(page: Page, fields: Fields) -> Result<Response, Response> {
    let values = Values {
        amount: fields.text("amount").into(),
        method: fields.text("method").into(),
        key: fields.text("key").into(),
    };
    match recharge(&page, &values).await {
        Ok(order) => {
            let path = format!("/console/top-ups/{}/pay", Encoded(&order));
            Ok(Redirect::to(&page.link(&path, &[])).into_response())
        }
        Err(error) => {
            errors::log(&error, page.request());
            // The key belongs to another top-up, so no form with it can start this one.
            let key = if is_used(&error) { Uuid::now_v7().to_string() } else { values.key };
            form(&page, Values { key, ..values }, Some(&error)).await
        }
    }
}

/// Whether the key of the form has started another top-up.
fn is_used(error: &Error) -> bool {
    matches!(error, Error::IdempotencyConflict { .. })
}

/// Starts the top-up. Returns its order.
async fn recharge(page: &Page, values: &Values) -> Answer<String> {
    let amount: Money = values
        .amount
        .parse()
        .map_err(|why: crate::biz::values::money::ParseError| Invalid::new("amount", why.to_string()))?;
    let message = RechargeRequest {
        user_id: page.user.clone(),
        amount: amount.to_wire(),
        payment_method: values.method.clone(),
        currency: String::new(),
        idempotency_key: values.key.clone(),
    };
    let mut origin = page.origin.clone();
    origin.return_to = page.own_site.as_ref().map(|site| format!("{site}/console/top-ups/"));
    let reply = page.console.api.recharges.recharge(message, origin, page.request()).await?;
    Ok(reply.order_id)
}

async fn form(page: &Page, values: Values, wrong: Option<&Error>) -> Result<Response, Response> {
    let account = GetAccountRequest { user_id: page.user.clone() };
    let account = page.ok(page.console.api.accounts.get_account(account).await)?;
    let texts = page.texts;
    let content = html! {
        section.narrow.card {
            h1 { (texts.get("top_up.title")) }
            p.quiet { (balance(page, &account)) }
            @if let Some(error) = wrong {
                p.notice.bad role="alert" {
                    @if is_used(error) { (texts.get("top_up.new_key")) } @else { (failure::message(texts, error)) }
                }
            }
            @if account.status != ACTIVE { (not_active(texts, &account.status)) }
            @else if page.is_read_only { p.notice { (texts.get("overview.read_only")) } }
            @else { (fields(page, &values, &account.currency)) }
        }
    };
    let status = wrong.map_or(StatusCode::OK, |error| errors::kind(error).http);
    Ok(page.respond_with(status, Section::TopUps, texts.get("top_up.title"), content))
}

/// The balance, for its user or for an operator.
pub(super) fn balance(page: &Page, account: &GetAccountReply) -> String {
    let balance = format::wire_money(account.balance);
    let values: [(&str, &dyn Display); 2] = [("amount", &balance), ("currency", &account.currency)];
    match page.is_for_operators() {
        true => page.texts.with("top_up.balance_of_user", &values),
        false => page.texts.with("top_up.balance", &values),
    }
}

fn fields(page: &Page, values: &Values, currency: &str) -> Markup {
    let texts = page.texts;
    let method = if METHODS.contains(&values.method.as_str()) { &values.method } else { METHODS[0] };
    html! {
        form.stack method="post" action=(page.link("/console/top-up", &[])) {
            (hidden(PROOF, &page.proof)) (hidden("key", &values.key))
            label { span { (texts.with("top_up.amount", &[("currency", &currency)])) }
                input name="amount" inputmode="decimal" required autocomplete="off" maxlength="16"
                    value=(values.amount);
            }
            fieldset {
                legend { (texts.get("top_up.method")) }
                @for choice in METHODS {
                    label.choice {
                        input type="radio" name="method" value=(choice) checked[choice == method];
                        " " (texts.word("method", choice))
                    }
                }
            }
            button.primary { (texts.get("top_up.submit")) }
            p.quiet { (texts.get("top_up.about")) }
        }
    }
}
