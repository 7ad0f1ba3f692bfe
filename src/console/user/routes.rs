//! The routes of the pages of users.

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    response::{Redirect, Response},
    routing::{any, get, post},
};

use http::Uri;

use super::{language, overview, records, sign_in, statement, top_up, top_ups, usage};
use crate::console::{
    assets,
    failure::{self, Asked},
    state::Console,
};

/// Most bytes of a form.
const MAX_FORM: usize = 16 * 1024;

/// The pages of an account. They need the proof that REST needs.
pub fn account_routes() -> Router<Console> {
    Router::new()
        .route("/console", get(overview::show))
        .route("/console/usage", get(usage::show))
        .route("/console/records", get(records::show))
        .route("/console/records.csv", get(records::export))
        .route("/console/top-ups", get(top_ups::list))
        .route("/console/top-ups/{order_id}", get(top_ups::show))
        .route("/console/statement", get(statement::show))
        .route("/console/statement.csv", get(statement::export))
}

/// The pages by which a user tops up. Operators do not pay.
pub fn top_up_routes() -> Router<Console> {
    Router::new()
        .route("/console/top-up", get(top_up::show).post(top_up::start))
        .route("/console/top-ups/{order_id}/pay", get(top_ups::pay))
        .layer(DefaultBodyLimit::max(MAX_FORM))
}

/// The forms and files that need no proof of a user, and the page of all other paths.
pub fn open_routes() -> (Router<Console>, Router) {
    let forms = Router::new()
        .route("/console/language", post(language::choose))
        .route("/console/sign-in", post(sign_in::sign_in))
        .route("/console/sign-out", post(sign_in::sign_out))
        .route("/console/", any(first_page))
        .route("/console/{*path}", any(no_page))
        .layer(DefaultBodyLimit::max(MAX_FORM));
    (forms, Router::new().route("/console/assets/{file}", get(assets::serve)))
}

/// The wildcard matches no empty rest, and people type the address so.
async fn first_page(uri: Uri) -> Redirect {
    let parameters = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    Redirect::to(&format!("/console{parameters}"))
}

async fn no_page(State(console): State<Console>, request: Request) -> Response {
    Asked::of_page(&request).map_or_else(failure::no_visit, |asked| failure::not_found(&console, &asked))
}
