//! Errors of HTTP itself. The contract has no codes for them.

use std::collections::HashMap;

use axum::response::Response;
use http::StatusCode;

use crate::{
    config::Style,
    service::{errors::ErrorBody, rest},
};

/// Errors of HTTP itself, in the shape of the contract's errors but without its codes.
pub fn http_error(style: Style, status: StatusCode, reason: &'static str, message: &str) -> Response {
    let body = ErrorBody { code: status.as_u16(), reason, message: message.to_owned(), metadata: HashMap::new() };
    rest::error_response(style, status, body)
}
