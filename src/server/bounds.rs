//! The bounds of a port: the most requests at once, and the deadline of a request.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};

use super::{
    arrival::Arrival, body_memory::BodyMemory, content, inflate, overflow, permits::Permits, refusal::Refusal,
    request::undecoded,
};
use crate::{
    biz::values::{error::Error, invalid::Invalid},
    config::Style,
    service::{
        body::BodyBudget,
        origin::{ForwardedNames, Forwarding},
        routes::{gives_money_back, is_callback, is_stream, starts_recharge},
    },
};

/// The bounds of one port.
#[derive(Clone)]
pub struct Bounds {
    pub permits: Permits,
    /// The permits of a group of routes that anyone may call: in all, and of one address.
    pub open_permits: (usize, usize),
    pub memory: BodyMemory,
    pub timeout: Duration,
    /// The additional time of requests that wait for payment-service.
    pub payment_timeout: Duration,
    pub style: Style,
    /// Names the client of a top-up.
    pub forwarding: Forwarding,
    /// The headers that go on to payment-service.
    pub forwarded: ForwardedNames,
    /// Whether the routes are those of gRPC.
    pub is_grpc: bool,
    /// Largest message over gRPC, in bytes.
    pub message_bytes: usize,
}

/// The memory of the bodies of a group of routes that anyone may call, in bytes.
const OPEN_BODIES: usize = 4 * 1024 * 1024;
/// Largest message over gRPC of a route that anyone may call.
pub const MAX_OPEN_MESSAGE: usize = 16 * 1024;

impl Bounds {
    /// The same for routes that anyone may call, with permits and memory of their own, so that requests
    /// without a proof use up nothing of the others.
    pub fn of_open_routes(&self) -> Self {
        let (all, of_address) = self.open_permits;
        let permits = Permits::new(all).shared_by_addresses(of_address);
        let message_bytes = self.message_bytes.min(MAX_OPEN_MESSAGE);
        Self { permits, memory: BodyMemory::new(OPEN_BODIES), message_bytes, ..self.clone() }
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
    let asks_payment_service = starts_recharge(&request) || is_callback(&request) || gives_money_back(&request);
    if asks_payment_service {
        request.extensions_mut().insert(bounds.forwarding.clone());
        request.extensions_mut().insert(bounds.forwarded.clone());
    }
    let permit = match bounds.permits.admit(&request, &bounds.forwarding) {
        Ok(permit) => permit,
        Err(why) => return refusal.answer(&Error::Overloaded(format!("{why}; retry later").into())),
    };
    let is_stream = is_stream(&request);
    let (mut request, arrival) = Arrival::watch(request, &bounds.memory, is_stream);
    if bounds.is_grpc {
        request = inflate::grpc(request, bounds.message_bytes, &bounds.memory, is_stream);
    }
    let budget = request.extensions().get::<BodyBudget>().cloned();
    let timeout = bounds.timeout + if asks_payment_service { bounds.payment_timeout } else { Duration::ZERO };
    let answer = match budget.filter(|_| bounds.is_grpc) {
        Some(budget) => tokio::time::timeout(timeout, budget.scope(next.run(request))).await,
        None => tokio::time::timeout(timeout, next.run(request)).await,
    };
    drop(permit);
    match answer {
        Ok(_) if arrival.is_too_much() => refusal
            .answer(&Error::Overloaded("too many bodies are being read, and nothing was done; retry later".into())),
        Ok(_) if arrival.is_broken() => refusal.incomplete(),
        Ok(response) => explain_undecoded(response, refusal),
        Err(_) if !arrival.is_complete() => refusal.incomplete(),
        Err(_) => refusal.late(),
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
