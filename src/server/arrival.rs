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
use crate::service::body::{BodyBudget, TakeBytes};

const ARRIVING: u8 = 0;
const COMPLETE: u8 = 1;
const BROKEN: u8 = 2;
const TOO_MUCH: u8 = 3;

/// The arrival of one request. The memory of its body is held until this is dropped, because the
/// handler reads the body into one piece.
pub struct Arrival(Option<Arc<Arriving>>);

/// A body on its way.
struct Arriving {
    state: AtomicU8,
    held: HeldBytes,
}

impl TakeBytes for Arriving {
    fn take(&self, bytes: usize) -> bool {
        self.unless_too_much(self.held.add(bytes))
    }
}

impl Arriving {
    fn unless_too_much(&self, has_room: bool) -> bool {
        if !has_room {
            self.state.store(TOO_MUCH, Relaxed);
        }
        has_room
    }
}

impl Arrival {
    /// Wraps the body of a request, to track its arrival and its memory. Each message of a stream takes
    /// the place of the one before.
    pub fn watch(request: Request, memory: &BodyMemory, is_stream: bool) -> (Request, Self) {
        // The body of a GET is no part of the message, and is not read.
        if request.body().is_end_stream() || request.method() == Method::GET {
            return (request, Self(None));
        }
        let arriving = Arc::new(Arriving { state: AtomicU8::new(ARRIVING), held: memory.of_request() });
        let arrival = Self(Some(arriving.clone()));
        let messages = is_stream.then(Messages::default);
        (request.map(|body| Body::new(Watched { body, arriving, messages })), arrival)
    }

    /// The memory for what is made of the body, if there is one.
    pub fn budget(&self) -> Option<BodyBudget> {
        self.0.clone().map(BodyBudget::of)
    }

    pub fn is_complete(&self) -> bool {
        self.state() == COMPLETE
    }

    /// Whether the connection ended, or broke its protocol, before the end of the body.
    pub fn is_broken(&self) -> bool {
        self.state() == BROKEN
    }

    /// Whether the bodies of all requests need more memory than they have.
    pub fn is_too_much(&self) -> bool {
        self.state() == TOO_MUCH
    }

    fn state(&self) -> u8 {
        self.0.as_ref().map_or(COMPLETE, |arriving| arriving.state.load(Relaxed))
    }
}

struct Watched {
    body: Body,
    arriving: Arc<Arriving>,
    /// The messages of a stream.
    messages: Option<Messages>,
}

impl Watched {
    fn has_room(&mut self, frame: &Frame<Bytes>) -> bool {
        let Some(data) = frame.data_ref() else { return true };
        let held = &self.arriving.held;
        let has_room = match &mut self.messages {
            // When a part is asked for, all complete messages before it were taken.
            Some(messages) => held.replace(messages.follow(data)),
            None => held.add(data.len()),
        };
        self.arriving.unless_too_much(has_room)
    }
}

/// Follows the messages of a stream over its parts: each has a frame of one byte of flags and four of
/// length.
#[derive(Default)]
struct Messages {
    frame: [u8; 5],
    /// The bytes of the frame that have come.
    framed: usize,
    /// The bytes of the message that have not come.
    missing: usize,
    /// The bytes of the message, with its frame, that have come.
    partial: usize,
}

impl Messages {
    /// The bytes in memory with a further part.
    fn follow(&mut self, mut part: &[u8]) -> usize {
        let held = self.partial + part.len();
        while let Some(byte) = part.first() {
            if self.framed < self.frame.len() {
                self.frame[self.framed] = *byte;
                (self.framed, self.partial, part) = (self.framed + 1, self.partial + 1, &part[1..]);
                if self.framed == self.frame.len() {
                    let [_, length @ ..] = self.frame;
                    self.missing = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
                }
            } else {
                let more = self.missing.min(part.len());
                (self.missing, self.partial, part) = (self.missing - more, self.partial + more, &part[more..]);
            }
            if self.framed == self.frame.len() && self.missing == 0 {
                (self.framed, self.partial) = (0, 0);
            }
        }
        held
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
            Some(Err(_)) => self.arriving.state.store(BROKEN, Relaxed),
            Some(Ok(part)) if !self.has_room(part) => {
                return Poll::Ready(Some(Err(axum::Error::new("too many bodies are in memory"))));
            }
            Some(Ok(_)) if !self.body.is_end_stream() => {}
            Some(Ok(_)) | None => self.arriving.state.store(COMPLETE, Relaxed),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_a_stream_is_held_until_it_is_complete() {
        let mut messages = Messages::default();
        // A message of three bytes in parts, two empty ones, and the begin of one of 300 bytes.
        let held: Vec<_> = [&b"\0\0\0"[..], b"\0\x03a", b"b", b"c\0\0\0\0\0", b"\0\0\0\0\0\0\0\0\x01\x2c", b"xy", b"z"]
            .into_iter()
            .map(|part| messages.follow(part))
            .collect();
        assert_eq!(held, [3, 6, 7, 13, 10, 7, 8]);
    }
}
