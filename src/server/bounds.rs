//! The bounds of a port: the most requests at once, and the deadline of a request.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use tokio::sync::Semaphore;

use super::{arrival::Arrival, body_memory::BodyMemory, content, overflow, request::undecoded, span::Refusal};
use crate::{
    biz::values::{error::Error, invalid::Invalid},
    config::Style,
    service::{
        origin::Forwarding,
        routes::{is_callback, is_stream, starts_recharge},
    },
};

/// The bounds of one port.
#[derive(Clone)]
pub struct Bounds {
    pub requests: Arc<Semaphore>,
    pub memory: BodyMemory,
    pub timeout: Duration,
    /// The additional time of requests that wait for payment-service.
    pub payment_timeout: Duration,
    pub style: Style,
    /// Names the client of a top-up.
    pub forwarding: Forwarding,
    /// Whether the routes are those of gRPC.
    pub is_grpc: bool,
}

/// Most requests at once of a group of routes that anyone may call.
const OPEN_REQUESTS: usize = 256;
/// The memory of their bodies, in bytes.
const OPEN_BODIES: usize = 4 * 1024 * 1024;

impl Bounds {
    /// The same for routes that anyone may call, with permits and memory of their own, so that requests
    /// without a proof use up nothing of the others.
    pub fn of_open_routes(&self) -> Self {
        let requests = Arc::new(Semaphore::new(OPEN_REQUESTS));
        Self { requests, memory: BodyMemory::new(OPEN_BODIES), ..self.clone() }
    }
}

/// Answers OVERLOADED at once if too many requests are open, and after the deadline if `next` takes
/// too long. The work of a late request goes on: an accepted charge is settled, and a retry with
/// the same id finds it.
pub async fn enforce(State(bounds): State<Arc<Bounds>>, mut request: Request, next: Next) -> Response {
    if let Some(refused) = overflow::refuse(&request, bounds.style) {
        return refused;
    }
    if bounds.is_grpc
        && let Some(refused) = content::refuse_grpc(&request)
    {
        return refused;
    }
    let refusal = Refusal::of(&request, bounds.style);
    let asks_payment_service = starts_recharge(&request) || is_callback(&request);
    if asks_payment_service {
        request.extensions_mut().insert(bounds.forwarding.clone());
    }
    let is_stream = is_stream(&request);
    let (request, arrival) = Arrival::watch(request, &bounds.memory, is_stream);
    let timeout = bounds.timeout + if asks_payment_service { bounds.payment_timeout } else { Duration::ZERO };
    match bounds.requests.try_acquire() {
        Ok(_open) => match tokio::time::timeout(timeout, next.run(request)).await {
            Ok(_) if arrival.is_too_much() => refusal
                .answer(&Error::Overloaded("too many bodies are being read, and nothing was done; retry later".into())),
            Ok(_) if arrival.is_broken() => refusal.incomplete(),
            Ok(response) => explain_undecoded(response, refusal),
            Err(_) if !arrival.is_complete() => refusal.incomplete(),
            Err(_) => refusal.late(),
        },
        Err(_) => refusal.answer(&Error::Overloaded("too many requests are open; retry later".into())),
    }
}

/// Answers a gRPC request that could not be decoded, or was too large, with the error of the
/// contract. tonic answers such requests before any code of ours, without details.
fn explain_undecoded(response: Response, refusal: Refusal) -> Response {
    match undecoded(&response) {
        Some(status) => refusal.answer(&Invalid::new("body", status.message()).into()),
        None => response,
    }
}
