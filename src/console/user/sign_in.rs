//! Sign-in and sign-out. A sign-in seals the token in the cookie. The next page verifies it, as every page does.

use std::sync::Arc;

use axum::{
    extract::State,
    response::{IntoResponse, Redirect, Response},
};
use http::StatusCode;

use crate::console::{form::Fields, link::is_own, session::MAX_TOKEN, state::Console, visit::NewSession};

/// Stands for a text that is no token. The check of the next page refuses it, and the form says so.
const NO_TOKEN: &str = "-";

pub(super) async fn sign_in(State(console): State<Console>, fields: Fields) -> Response {
    let (token, back) = (fields.text("token"), fields.text("back"));
    let token = if is_token(token) { token } else { NO_TOKEN };
    let back = if is_own(back) { back } else { "/console" };
    begin(&console, Some(token.into()), back)
}

pub(super) async fn sign_out(State(console): State<Console>, _: Fields) -> Response {
    begin(&console, None, "/console")
}

/// Goes on in a new session, so that forms of the old one are void.
fn begin(console: &Console, token: Option<Arc<str>>, back: &str) -> Response {
    match console.sessions.begin(console.calendar.now().utc, token) {
        Ok(session) => {
            let mut response = Redirect::to(back).into_response();
            response.extensions_mut().insert(NewSession(session));
            response
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn is_token(token: &str) -> bool {
    (1..=MAX_TOKEN).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic())
}
