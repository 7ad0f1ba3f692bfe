//! The bounds of a port: the most requests at once, and the deadline of a request.

use std::{
    convert::Infallible,
    future::ready,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{extract::Request, response::Response};
use tower::Service;

use super::{
    arrival::Arrival,
    body_memory::BodyMemory,
    content, inflate, overflow,
    permits::{Permit, Permits},
    refusal::Refusal,
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

    /// The permit of a request, and the answer in case that something fails.
    ///
    /// # Errors
    /// The answer to a request that is refused at once.
    fn admit(&self, request: &Request) -> Result<(Permit, Refusal), Box<Response>> {
        if let Some(refused) = overflow::refuse(request, self.style) {
            return Err(refused.into());
        }
        if self.is_grpc
            && let Some(refused) = content::refuse_grpc(request)
        {
            return Err(refused.into());
        }
        let refusal = Refusal::of(request, self.style);
        match self.permits.admit(request, &self.forwarding) {
            Ok(permit) => Ok((permit, refusal)),
            Err(why) => Err(refusal.paced(&Error::Overloaded(format!("{why}; retry later").into())).into()),
        }
    }
}

/// A group of routes within its bounds. It is a service of its own type, because a layer from a function would
/// clone and box the routes for every request.
#[derive(Clone)]
pub struct Bounded<S> {
    pub routes: S,
    pub bounds: Arc<Bounds>,
}

impl<S> Service<Request> for Bounded<S>
where
    S: Service<Request, Response = Response, Error = Infallible, Future: Send + 'static>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.routes.poll_ready(context)
    }

    /// Answers OVERLOADED at once if too many requests are open, and after the deadline if the routes take
    /// too long. The work of a late request goes on: an accepted charge is settled, and a retry with
    /// the same id finds it.
    fn call(&mut self, mut request: Request) -> Self::Future {
        let bounds = &*self.bounds;
        let (permit, refusal) = match bounds.admit(&request) {
            Ok(admitted) => admitted,
            Err(refused) => return Box::pin(ready(Ok(*refused))),
        };
        let mut timeout = bounds.timeout;
        if starts_recharge(&request) || is_callback(&request) || gives_money_back(&request) {
            timeout += bounds.payment_timeout;
            request.extensions_mut().insert(bounds.forwarding.clone());
            request.extensions_mut().insert(bounds.forwarded.clone());
        }
        let is_stream = is_stream(&request);
        let (mut request, arrival) = Arrival::watch(request, &bounds.memory, is_stream);
        let budget = arrival.budget();
        if bounds.is_grpc {
            request = inflate::grpc(request, bounds.message_bytes, &bounds.memory, budget.as_ref(), is_stream);
        }
        let answer = self.routes.call(request);
        Box::pin(async move {
            let answer = tokio::time::timeout(timeout, BodyBudget::scope(budget, answer)).await;
            drop(permit);
            let Ok(response) = answer else {
                return Ok(if arrival.is_complete() { refusal.late() } else { refusal.incomplete() });
            };
            let response = response?;
            Ok(if arrival.is_too_much() {
                refusal.paced(&Error::Overloaded(
                    "too many bodies are being read, and nothing was done; retry later".into(),
                ))
            } else if arrival.is_broken() {
                refusal.incomplete()
            } else {
                explain_undecoded(response, refusal)
            })
        })
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
