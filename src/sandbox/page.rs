//! The pay page and its forms: to pay, and to give the payment back.

use std::{fmt::Write, sync::Arc};

use axum::{
    Form, Router,
    extract::{Path, State, rejection::FormRejection},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use http::{
    StatusCode,
    header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, LOCATION, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS},
};
use serde::Deserialize;

use super::{
    payment::{PaymentOutcome, SandboxPayment},
    payments::Tried,
    refund::{RefundKind, RefundState},
    till::Till,
};
use crate::{biz::values::money::Money, server::Escaped};

/// No page of another site may show the pay page in a frame, and so trick a user into a click.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

const STYLE: &str = include_str!("page.css");

#[derive(Deserialize)]
struct Choice {
    result: String,
    /// With REFUNDED and CHARGEBACK: a decimal amount; absent or empty for all that is left.
    amount: Option<String>,
    /// With REFUND_SUCCESS and REFUND_FAILED.
    refund_id: Option<String>,
}

/// The effect of a button.
enum Button {
    Pay(PaymentOutcome),
    TakeBack(RefundKind),
    Decide(RefundState),
}

impl Button {
    fn parse(result: &str) -> Option<Self> {
        let is = |word: &str| result.eq_ignore_ascii_case(word);
        PaymentOutcome::parse(result).map(Self::Pay).or_else(|| match () {
            () if is("REFUNDED") => Some(Self::TakeBack(RefundKind::Refund)),
            () if is("CHARGEBACK") => Some(Self::TakeBack(RefundKind::Chargeback)),
            () if is("REFUND_SUCCESS") => Some(Self::Decide(RefundState::Success)),
            () if is("REFUND_FAILED") => Some(Self::Decide(RefundState::Failed)),
            () => None,
        })
    }
}

pub(super) fn routes() -> Router<Arc<Till>> {
    Router::new().route("/pay/{payment_id}", get(show).post(pay))
}

async fn show(State(till): State<Arc<Till>>, Path(id): Path<String>) -> Response {
    match till.payments.by_id(&id) {
        Some(payment) => page(StatusCode::OK, &title(&payment), &body(&payment)),
        None => unknown(),
    }
}

async fn pay(
    State(till): State<Arc<Till>>,
    Path(id): Path<String>,
    form: Result<Form<Choice>, FormRejection>,
) -> Response {
    if let Err(FormRejection::InvalidFormContentType(_)) = form {
        let why = "The content type must be <code>application/x-www-form-urlencoded</code>, \
                   as <code>curl -d</code> sends it and <code>curl -F</code> does not.";
        return unchanged(StatusCode::UNSUPPORTED_MEDIA_TYPE, why);
    }
    let pressed = form.ok().and_then(|Form(choice)| Some((Button::parse(&choice.result)?, choice)));
    let Some((button, choice)) = pressed else {
        let why = "The form field <code>result</code> must be SUCCESS, FAILED, REFUNDED, CHARGEBACK, REFUND_SUCCESS \
                   or REFUND_FAILED.";
        return unchanged(StatusCode::BAD_REQUEST, why);
    };
    // A relative location also works behind a proxy that maps paths.
    let done = |id: String| (StatusCode::SEE_OTHER, [(LOCATION, id)]).into_response();
    match button {
        Button::Pay(outcome) => match till.pay(&id, outcome) {
            Tried::Counts(_) | Tried::PaidBefore => done(id),
            Tried::Unknown => unknown(),
        },
        Button::TakeBack(kind) => {
            let Some(payment) = till.payments.by_id(&id) else { return unknown() };
            let Ok(minor) = minor(&payment, choice.amount.as_deref().unwrap_or_default()) else {
                let why = "The form field <code>amount</code> must be an amount of the currency, or empty.";
                return unchanged(StatusCode::BAD_REQUEST, why);
            };
            match till.take_back(&id, kind, minor) {
                Ok(()) => done(id),
                Err(refusal) => unchanged(StatusCode::CONFLICT, refusal.why()),
            }
        }
        Button::Decide(state) => {
            match till.decide_refund(&id, choice.refund_id.as_deref().unwrap_or_default(), state) {
                true => done(id),
                false => unchanged(StatusCode::CONFLICT, "The payment has no such pending refund."),
            }
        }
    }
}

/// An amount of a form in minor units; `None` if it is empty.
fn minor(payment: &SandboxPayment, amount: &str) -> Result<Option<i64>, ()> {
    if amount.is_empty() {
        return Ok(None);
    }
    let amount: Money = amount.parse().map_err(drop)?;
    payment.order.amount.currency().to_minor(amount).map(Some).ok_or(())
}

/// `why` is HTML.
fn unchanged(status: StatusCode, why: &str) -> Response {
    page(status, "Nothing was changed", &format!("<h1>Nothing was changed</h1><p>{why}</p>"))
}

fn unknown() -> Response {
    let body = "<h1>No such payment</h1><p>The sandbox forgets its payments when it stops.</p>";
    page(StatusCode::NOT_FOUND, "No such payment", body)
}

fn title(payment: &SandboxPayment) -> String {
    let status = match payment.outcome {
        None => "Pay",
        Some(PaymentOutcome::Success) => "Paid",
        Some(PaymentOutcome::Failed) => "Failed:",
    };
    format!("{status} {} {}", payment.order.amount, payment.order.amount.currency())
}

/// The body of the page of a payment. Texts from the order are escaped here.
fn body(payment: &SandboxPayment) -> String {
    let order = &payment.order;
    let subject = if order.subject.is_empty() { "Payment" } else { &order.subject };
    let (subject, order_id) = (Escaped(subject), Escaped(&order.id));
    let (amount, currency, method) = (order.amount, order.amount.currency(), order.method.words());
    let status = match payment.outcome {
        None => "<dd>Waiting for payment</dd>",
        Some(PaymentOutcome::Success) => "<dd class=\"paid\">Paid</dd>",
        Some(PaymentOutcome::Failed) => "<dd class=\"failed\">Failed; you can try again</dd>",
    };
    let (refunds, actions) = (refunds(payment), actions(payment));
    format!(
        "<h1>{subject}</h1>\n\
         <p class=\"amount\">{amount} {currency}</p>\n\
         <dl>\n\
         <dt>Order</dt><dd>{order_id}</dd>\n\
         <dt>Method</dt><dd>{method}</dd>\n\
         <dt>Status</dt>{status}\n\
         </dl>\n\
         {refunds}{actions}"
    )
}

/// The refunds and chargebacks, with buttons for pending ones.
fn refunds(payment: &SandboxPayment) -> String {
    let mut html = String::new();
    for refund in &payment.refunds {
        let (kind, amount, id) = (refund.kind, refund.amount, Escaped(&refund.id));
        let kind = if kind == RefundKind::Chargeback { "Chargeback" } else { "Refund" };
        let state = match refund.state {
            RefundState::Pending => "pending",
            RefundState::Success => "done",
            RefundState::Failed => "failed",
        };
        // Writing into a String can't fail.
        let _ = writeln!(html, "<p>{kind} {id}: {amount}, {state}</p>");
        if refund.state == RefundState::Pending {
            let _ = writeln!(
                html,
                "<form method=\"post\">\n\
                 <input type=\"hidden\" name=\"refund_id\" value=\"{id}\">\n\
                 <button name=\"result\" value=\"REFUND_SUCCESS\">Complete</button>\n\
                 <button name=\"result\" value=\"REFUND_FAILED\" class=\"second\">Fail</button>\n\
                 </form>"
            );
        }
    }
    html
}

/// The buttons to pay or to give the payment back, and the link back after the first attempt.
fn actions(payment: &SandboxPayment) -> String {
    let mut html = String::new();
    if payment.outcome != Some(PaymentOutcome::Success) {
        html.push_str(
            "<form method=\"post\">\n\
             <button name=\"result\" value=\"SUCCESS\">Pay</button>\n\
             <button name=\"result\" value=\"FAILED\" class=\"second\">Fail</button>\n\
             </form>\n",
        );
    }
    if payment.left() > 0 {
        html.push_str(
            "<form method=\"post\">\n\
             <label>Amount <input name=\"amount\" inputmode=\"decimal\" placeholder=\"all that is left\"></label>\n\
             <button name=\"result\" value=\"REFUNDED\">Refund</button>\n\
             <button name=\"result\" value=\"CHARGEBACK\" class=\"second\">Chargeback</button>\n\
             </form>\n",
        );
    }
    let url = &payment.order.return_url;
    if payment.outcome.is_some() && is_web(url) {
        html.push_str("<p class=\"back\"><a rel=\"noreferrer\" href=\"");
        // Writing into a String can't fail.
        let _ = write!(html, "{}", Escaped(url));
        html.push_str("\">Back to where you came from</a></p>\n");
    }
    html
}

/// Whether a URL may be a link: http and https only, so that `javascript:` never is one.
fn is_web(url: &str) -> bool {
    let begins = |scheme: &str| url.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    begins("https://") || begins("http://")
}

/// `body` is HTML; `title` is text.
fn page(status: StatusCode, title: &str, body: &str) -> Response {
    let html = format!(
        "<!doctype html>\n\
         <html lang=\"en\">\n\
         <head>\n\
         <meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{} - payment sandbox</title>\n\
         <style>\n{STYLE}</style>\n\
         </head>\n\
         <body>\n\
         <p class=\"banner\" role=\"note\"><strong>Sandbox.</strong> This is a test page: no money moves.</p>\n\
         <main>\n{body}</main>\n\
         </body>\n\
         </html>\n",
        Escaped(title)
    );
    let headers = [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_FRAME_OPTIONS, "DENY"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CACHE_CONTROL, "no-store"),
    ];
    (status, headers, Html(html)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_web_addresses_become_links() {
        for good in ["http://a", "HTTPS://a/b?c=d"] {
            assert!(is_web(good), "{good}");
        }
        for bad in ["", "javascript:alert(1)", " http://a", "data:text/html,x", "/path", "http:/é"] {
            assert!(!is_web(bad), "{bad}");
        }
    }

    /// Relative luminance, by WCAG 2, of a colour such as #fff or #1c2430.
    fn luminance(colour: &str) -> f64 {
        let digits = &colour[1..];
        let width = digits.len() / 3;
        let channel = |at: usize| {
            let value = u8::from_str_radix(&digits[at * width..(at + 1) * width].repeat(3 - width), 16).unwrap();
            let value = f64::from(value) / 255.0;
            if value <= 0.040_45 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * channel(0) + 0.7152 * channel(1) + 0.0722 * channel(2)
    }

    /// WCAG 2 asks for a contrast of 4.5 for text, and of 3 for the focus ring, which has the
    /// colour `--link`.
    #[test]
    fn the_page_has_enough_contrast_in_both_colour_schemes() {
        let (light, rest) = STYLE.split_once("@media").unwrap();
        let (dark, _) = rest.split_once("* {").unwrap();
        for scheme in [light, dark] {
            let colour = |name: &str| {
                let (_, value) = scheme.split_once(&format!("--{name}: ")).unwrap();
                luminance(value.split(';').next().unwrap())
            };
            for name in ["text", "quiet", "link", "good", "bad"] {
                let (one, other) = (colour(name), colour("card"));
                let contrast = (one.max(other) + 0.05) / (one.min(other) + 0.05);
                assert!(contrast >= 4.5, "{name}: {contrast:.2} in {scheme}");
            }
        }
        // Rules outside the palette use no literal colours, except the banner and the button.
        let own = STYLE.lines().filter(|line| !line.starts_with(".banner") && !line.starts_with("button {"));
        let own = own.filter(|line| !line.trim_start().starts_with("--"));
        assert!(!own.collect::<String>().contains('#'));
    }
}
