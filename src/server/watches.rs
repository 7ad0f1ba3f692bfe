//! Streams that have no end of their own: the watches of gRPC health, and reflection. Anyone may open
//! them, so they are bounded, and they end when their connection takes no further requests: at its age,
//! and at the stop of the server.

use std::{
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    extract::{Request, State},
    middleware::{self, Next},
    response::Response,
};
use http::HeaderMap;
use hyper::body::Frame;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{listener::Connection, refusal::Refusal};
use crate::{
    biz::{
        limits::shares::{Share, Shares},
        values::error::Error,
    },
    config::{ServerLimits, Style},
    service::origin::{Forwarding, network},
};

/// The streams of gRPC health and of reflection, by the begin of their paths.
const STREAMS: [&str; 2] = ["/grpc.health.v1.Health/Watch", "/grpc.reflection."];

/// The bounds of these streams.
#[derive(Clone)]
pub struct Watches {
    all: Arc<Semaphore>,
    of_address: Arc<Shares<IpAddr>>,
    forwarding: Forwarding,
}

/// The permits of one stream.
struct Watch {
    _one_of_all: OwnedSemaphorePermit,
    _of_address: Option<Share<IpAddr>>,
}

impl Watches {
    pub fn new(limits: &ServerLimits, forwarding: Forwarding) -> Self {
        Self {
            all: Arc::new(Semaphore::new(limits.watches)),
            of_address: Shares::new(limits.watches_per_address),
            forwarding,
        }
    }

    /// Adds the bounds to `routes`.
    pub fn protect(&self, routes: Router) -> Router {
        routes.route_layer(middleware::from_fn_with_state(self.clone(), bound))
    }

    fn admit(&self, request: &Request) -> Option<Watch> {
        let of_address = match self.forwarding.client_ip(request.headers(), request.extensions()) {
            Some(address) => Some(self.of_address.take(&network(address))?),
            None => None,
        };
        Some(Watch { _one_of_all: self.all.clone().try_acquire_owned().ok()?, _of_address: of_address })
    }
}

async fn bound(State(watches): State<Watches>, request: Request, next: Next) -> Response {
    if !STREAMS.iter().any(|stream| request.uri().path().starts_with(stream)) {
        return next.run(request).await;
    }
    let Some(watch) = watches.admit(&request) else {
        let error = Error::Overloaded("too many watches are open; ask with Check, or retry later".into());
        return Refusal::of(&request, Style::Plain).paced(&error);
    };
    let drained = request.extensions().get::<Connection>().map(|connection| Box::pin(connection.drained()));
    next.run(request).await.map(|body| Body::new(Ending { body, drained, _watch: watch }))
}

/// The replies of a stream, until its connection takes no further requests.
struct Ending {
    body: Body,
    /// `None` for a request that came over no listener, and after the end.
    drained: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    _watch: Watch,
}

impl HttpBody for Ending {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame);
        }
        if self.drained.as_mut().is_none_or(|drained| drained.as_mut().poll(context).is_pending()) {
            return Poll::Pending;
        }
        self.drained = None;
        self.body = Body::empty();
        Poll::Ready(Some(Ok(Frame::trailers(end()))))
    }
}

/// The status of a stream that ends with its connection.
fn end() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    let status = tonic::Status::unavailable("the connection takes no further requests; open the stream again");
    // A status of ASCII always fits into headers.
    let _ = status.add_header(&mut trailers);
    trailers
}
