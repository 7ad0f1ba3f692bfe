//! The choice of a language.

use axum::response::{IntoResponse, Redirect, Response};

use crate::{
    console::{form::Fields, link::is_own, visit::NewLanguage},
    texts::Language,
};

pub(super) async fn choose(fields: Fields) -> Response {
    let back = fields.text("back");
    let mut response = Redirect::to(if is_own(back) { back } else { "/console" }).into_response();
    if let Some(language) = Language::of_tag(fields.text("language")) {
        response.extensions_mut().insert(NewLanguage(language));
    }
    response
}
