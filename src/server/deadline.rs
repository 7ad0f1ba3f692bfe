//! No request waits longer than the configured time.

use std::time::Duration;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};

use super::is_grpc;
use crate::{biz::error::Error, config::Style, service::rest};

/// Answers OVERLOADED when `next` takes too long. What it had begun goes on: a
/// charge that was accepted is settled, and a retry with its id finds it.
pub async fn enforce(State((limit, style)): State<(Duration, Style)>, request: Request, next: Next) -> Response {
    let grpc = is_grpc(&request);
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let error = Error::Overloaded("took too long; retry with the same id to learn the outcome".into());
            if grpc { tonic::Status::from(error).into_http() } else { rest::failure(style, &error) }
        }
    }
}
