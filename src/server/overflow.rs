//! Requests on connections beyond the limits of a port. They reach health, readiness and metrics, so that a
//! full server does not look dead; others are refused at once.

use axum::{extract::Request, response::Response};

use super::refusal::Refusal;
use crate::{biz::values::error::Error, config::Style};

/// The mark of such a request. The listener adds it.
#[derive(Debug, Clone, Copy)]
pub struct BeyondLimit;

/// The health service of gRPC, which lies among the bounded routes.
const GRPC_HEALTH: &str = "/grpc.health.v1.Health/";

/// The refusal of a request with the mark.
pub fn refuse(request: &Request, style: Style) -> Option<Response> {
    request.extensions().get::<BeyondLimit>()?;
    let is_health = request.uri().path().starts_with(GRPC_HEALTH);
    let error = Error::Overloaded("too many connections are open; retry later".into());
    (!is_health).then(|| Refusal::of(request, style).answer(&error))
}
