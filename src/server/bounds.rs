//! Bounds of a request: how many at once, and how long one may take.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use tokio::sync::Semaphore;
use tonic::{Code, Status};

use super::{callback, is_grpc};
use crate::{
    biz::error::{Error, Invalid},
    config::Style,
    service::rest::{self, RECHARGE_PATH},
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

impl Bounds {
    fn timeout_of(&self, request: &Request) -> Duration {
        let starts_recharge = matches!(request.uri().path(), RECHARGE_PATH | GRPC_RECHARGE_PATH);
        if starts_recharge || callback::is_callback(request) {
            self.timeout + self.payment_timeout
        } else {
            self.timeout
        }
    }
}

/// The path of the rpc over gRPC.
const GRPC_RECHARGE_PATH: &str = "/billing.v1.BillingService/Recharge";

/// Answers OVERLOADED at once when too many requests are open, and when `next` takes
/// too long. What a late one had begun goes on: a charge that was accepted is
/// settled, and a retry with its id finds it.
pub async fn enforce(State(bounds): State<Bounds>, request: Request, next: Next) -> Response {
    let (grpc, timeout) = (is_grpc(&request), bounds.timeout_of(&request));
    let answer = match bounds.requests.try_acquire() {
        Ok(_open) => match tokio::time::timeout(timeout, next.run(request)).await {
            Ok(response) => return response,
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
    match Status::from_header_map(response.headers()) {
        Some(status) if matches!(status.code(), Code::Internal | Code::OutOfRange) && status.details().is_empty() => {
            Status::from(Error::from(Invalid::new("body", status.message()))).into_http()
        }
        _ => response,
    }
}
