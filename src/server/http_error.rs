//! Errors of HTTP itself. The contract has no codes for them.

use std::collections::BTreeMap;

use axum::response::Response;
use http::StatusCode;

use crate::{
    config::Style,
    service::{errors::ErrorBody, rest},
    texts::{Language, Texts},
};

/// Errors of HTTP itself, in the shape of the contract's errors but without its codes. The catalogues of other languages
/// have their message by the reason.
pub fn http_error(
    (style, language): (Style, Language),
    status: StatusCode,
    reason: &'static str,
    message: &str,
) -> Response {
    let texts = Texts(language);
    let translated = texts.find_word("http_error", reason).filter(|_| language != Language::English);
    let message = translated.unwrap_or(message).to_owned();
    let body = ErrorBody { code: status.as_u16(), reason, message, metadata: BTreeMap::new() };
    rest::error_response(style, status, body)
}
