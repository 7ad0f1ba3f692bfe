//! Tracks the memory of a body, and whether its request has arrived in full. Nothing is charged before
//! that, so a request whose body breaks off or stops has no unknown outcome.

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

use super::body_memory::{BodyMemory, HeldBytes};

const ARRIVING: u8 = 0;
const COMPLETE: u8 = 1;
const BROKEN: u8 = 2;
const TOO_MUCH: u8 = 3;

/// The arrival of one request. The memory of its body is held until this is dropped, because the
/// handler reads the body into one piece.
pub struct Arrival {
    state: Arc<AtomicU8>,
    _held: Option<HeldBytes>,
}

impl Arrival {
    /// Wraps the body of a request, to track its arrival and its memory. Each part of a stream of
    /// messages takes the place of the one before.
    pub fn watch(request: Request, memory: &BodyMemory, is_stream: bool) -> (Request, Self) {
        // The body of a GET is no part of the message, and is not read.
        let is_complete = request.body().is_end_stream() || request.method() == Method::GET;
        let state = Arc::new(AtomicU8::new(if is_complete { COMPLETE } else { ARRIVING }));
        if is_complete {
            return (request, Self { state, _held: None });
        }
        let held = memory.of_request();
        let arrival = Self { state: state.clone(), _held: Some(held.clone()) };
        (request.map(|body| Body::new(Watched { body, state, held, is_stream })), arrival)
    }

    pub fn is_complete(&self) -> bool {
        self.state.load(Relaxed) == COMPLETE
    }

    /// Whether the connection ended, or broke its protocol, before the end of the body.
    pub fn is_broken(&self) -> bool {
        self.state.load(Relaxed) == BROKEN
    }

    /// Whether the bodies of all requests need more memory than they have.
    pub fn is_too_much(&self) -> bool {
        self.state.load(Relaxed) == TOO_MUCH
    }
}

struct Watched {
    body: Body,
    state: Arc<AtomicU8>,
    held: HeldBytes,
    is_stream: bool,
}

impl Watched {
    fn has_room(&self, frame: &Frame<Bytes>) -> bool {
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        if self.is_stream { self.held.replace(bytes) } else { self.held.add(bytes) }
    }
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
            Some(Ok(part)) if !self.has_room(part) => {
                self.state.store(TOO_MUCH, Relaxed);
                return Poll::Ready(Some(Err(axum::Error::new("too many bodies are in memory"))));
            }
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
