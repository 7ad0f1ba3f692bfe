//! The pay page, and the form on it that pays.

use std::{
    fmt::{self, Write},
    sync::Arc,
};

use axum::{
    Form, Router,
    extract::{Path, State, rejection::FormRejection},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use http::{
    StatusCode,
    header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, LOCATION, X_CONTENT_TYPE_OPTIONS},
};
use serde::Deserialize;

use super::{
    Till,
    payment::{Outcome, Payment},
    payments::Tried,
};

const STYLE: &str = include_str!("page.css");

#[derive(Deserialize)]
struct Choice {
    result: String,
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
    let Some(outcome) = form.ok().and_then(|Form(choice)| Outcome::parse(&choice.result)) else {
        let body = "<h1>Nothing was changed</h1><p>The form field <code>result</code> must be SUCCESS or FAILED.</p>";
        return page(StatusCode::BAD_REQUEST, "Bad request", body);
    };
    match till.pay(&id, outcome) {
        // Relative, so that it holds behind a proxy too, whatever its paths.
        Tried::Counts(_) | Tried::PaidBefore => (StatusCode::SEE_OTHER, [(LOCATION, id)]).into_response(),
        Tried::Unknown => unknown(),
    }
}

fn unknown() -> Response {
    let body = "<h1>No such payment</h1><p>The sandbox forgets its payments when it stops.</p>";
    page(StatusCode::NOT_FOUND, "No such payment", body)
}

fn title(payment: &Payment) -> String {
    format!("Pay {} {}", payment.order.amount, payment.order.currency)
}

/// What the page says of a payment. Texts of others are escaped here.
fn body(payment: &Payment) -> String {
    let order = &payment.order;
    let subject = if order.subject.is_empty() { "Payment" } else { &order.subject };
    let (subject, order_id, currency) = (Escaped(subject), Escaped(&order.id), Escaped(&order.currency));
    let (amount, method) = (order.amount, order.method.words());
    let (class, status) = match payment.outcome {
        None => ("open", "Waiting for payment"),
        Some(Outcome::Success) => ("paid", "Paid"),
        Some(Outcome::Failed) => ("failed", "Failed; you can try again"),
    };
    let actions = actions(payment);
    format!(
        "<h1>{subject}</h1>\n\
         <p class=\"amount\">{amount} {currency}</p>\n\
         <dl>\n\
         <dt>Order</dt><dd>{order_id}</dd>\n\
         <dt>Method</dt><dd>{method}</dd>\n\
         <dt>Status</dt><dd class=\"{class}\">{status}</dd>\n\
         </dl>\n\
         {actions}"
    )
}

/// Buttons while it can be paid, and the way back once it was tried.
fn actions(payment: &Payment) -> String {
    let mut html = String::new();
    if payment.outcome != Some(Outcome::Success) {
        html.push_str(
            "<form method=\"post\">\n\
             <button name=\"result\" value=\"SUCCESS\">Pay</button>\n\
             <button name=\"result\" value=\"FAILED\" class=\"second\">Fail</button>\n\
             </form>\n",
        );
    }
    let url = &payment.order.return_url;
    if payment.outcome.is_some() && is_web(url) {
        html.push_str("<p class=\"back\"><a rel=\"noreferrer\" href=\"");
        // Into a text nothing fails.
        let _ = write!(html, "{}", Escaped(url));
        html.push_str("\">Back to where you came from</a></p>\n");
    }
    html
}

/// Whether it may be a link: `javascript:` must not.
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
        (CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CACHE_CONTROL, "no-store"),
    ];
    (status, headers, Html(html)).into_response()
}

/// A text as HTML shows it, inside an element or a quoted attribute.
struct Escaped<'t>(&'t str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
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
}
