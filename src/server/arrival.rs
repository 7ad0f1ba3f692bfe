//! Tracks whether a request has arrived in full. Nothing is charged before that. So a request whose
//! body breaks off or stops has no unknown outcome.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::Request,
};
use http::Method;
use hyper::body::{Frame, SizeHint};

const ARRIVING: u8 = 0;
const COMPLETE: u8 = 1;
const BROKEN: u8 = 2;

/// The arrival of one request.
pub struct Arrival(Arc<AtomicU8>);

impl Arrival {
    /// Wraps the body of a request, to track its arrival.
    pub fn watch(request: Request) -> (Request, Self) {
        // The body of a GET is no part of the message, and is not read.
        let is_complete = request.body().is_end_stream() || request.method() == Method::GET;
        let state = Arc::new(AtomicU8::new(if is_complete { COMPLETE } else { ARRIVING }));
        let arrival = Self(state.clone());
        if is_complete {
            return (request, arrival);
        }
        (request.map(|body| Body::new(Watched { body, state })), arrival)
    }

    pub fn is_complete(&self) -> bool {
        self.0.load(Relaxed) == COMPLETE
    }

    /// Whether the connection ended, or broke its protocol, before the end of the body.
    pub fn is_broken(&self) -> bool {
        self.0.load(Relaxed) == BROKEN
    }
}

struct Watched {
    body: Body,
    state: Arc<AtomicU8>,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            Some(Err(_)) => self.state.store(BROKEN, Relaxed),
            Some(Ok(_)) if !self.body.is_end_stream() => {}
            Some(Ok(_)) | None => self.state.store(COMPLETE, Relaxed),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
