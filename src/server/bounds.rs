//! Bounds of a request: how many at once, and how long one may take.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use tokio::sync::Semaphore;
use tonic::Status;

use super::request::{is_callback, is_grpc, starts_recharge, undecoded};
use crate::{
    biz::values::{error::Error, invalid::Invalid},
    config::Style,
    service::rest,
};

/// The bounds of one port.
#[derive(Clone)]
pub struct Bounds {
    pub requests: Arc<Semaphore>,
    pub timeout: Duration,
    /// As long as payment-service may take, for those who wait for it.
    pub payment_timeout: Duration,
    pub style: Style,
}

/// Answers OVERLOADED at once when too many requests are open, and when `next` takes
/// too long. What a late one had begun goes on: a charge that was accepted is
/// settled, and a retry with its id finds it.
pub async fn enforce(State(bounds): State<Bounds>, request: Request, next: Next) -> Response {
    let grpc = is_grpc(&request);
    let starts_recharge = starts_recharge(&request);
    let asks_payment_service = starts_recharge || is_callback(&request);
    let timeout = bounds.timeout + if asks_payment_service { bounds.payment_timeout } else { Duration::ZERO };
    let answer = match bounds.requests.try_acquire() {
        Ok(_open) => match tokio::time::timeout(timeout, next.run(request)).await {
            Ok(response) => return response,
            Err(_) if starts_recharge => "took too long, and the outcome is unknown; look at the orders before a retry",
            Err(_) => "took too long, and the outcome is unknown; a retry with the same id finds it",
        },
        Err(_) => "too many requests are open; retry later",
    };
    let error = Error::Overloaded(answer.into());
    if grpc { Status::from(error).into_http() } else { rest::failure(bounds.style, &error) }
}

/// Gives a gRPC request that could not be decoded, or was too large, the error of the
/// contract. tonic answers these before any code of ours, without details.
pub async fn explain_undecoded(response: Response) -> Response {
    match undecoded(&response) {
        Some(status) => Status::from(Error::from(Invalid::new("body", status.message()))).into_http(),
        None => response,
    }
}
