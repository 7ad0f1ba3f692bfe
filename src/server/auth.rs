//! The token check of the internal service. Without configured tokens every caller
//! is admitted, as on a closed network.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::Response,
};
use http::{HeaderMap, header::AUTHORIZATION};
use subtle::{Choice, ConstantTimeEq};

use super::span::Refusal;
use crate::{
    biz::values::error::Error,
    config::{Secret, Style},
};

/// Adds the check to `routes` if tokens are configured. The check runs before the body is read.
pub fn protect<S: Clone + Send + Sync + 'static>(routes: Router<S>, tokens: &[Secret], style: Style) -> Router<S> {
    if tokens.is_empty() {
        return routes;
    }
    let tokens: Arc<[Secret]> = tokens.into();
    routes.route_layer(middleware::from_fn_with_state((tokens, style), check))
}

async fn check(State((tokens, style)): State<(Arc<[Secret]>, Style)>, request: Request, next: Next) -> Response {
    let error = match bearer(request.headers()) {
        None => Error::Unauthenticated("send header authorization: Bearer <token>".into()),
        Some(token) if is_known(token, &tokens) => return next.run(request).await,
        Some(_) => Error::Unauthenticated("the token is not valid".into()),
    };
    Refusal::of(&request, style).answer(&error)
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
}

/// Compares with every token in constant time, so that the time reveals no part of a token.
fn is_known(token: &[u8], tokens: &[Secret]) -> bool {
    tokens.iter().fold(Choice::from(0), |known, secret| known | secret.reveal().as_bytes().ct_eq(token)).into()
}
