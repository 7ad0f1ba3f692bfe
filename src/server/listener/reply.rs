//! The body of a reply: in slices, so that the progress of a slow client shows, and with the request open
//! until its end.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};

use super::{activity::OpenRequest, sending::note_frame};

/// Most bytes that are given to the connection at once.
const SLICE: usize = 16 * 1024;
/// Bytes at the end of a part that are given to a stream of HTTP/2 on their own. A stream takes a whole
/// slice as soon as the client takes one byte of it. So it must wait for the client before the last byte,
/// and the wait shows.
const LAST: usize = 1;

pub struct Reply {
    body: Body,
    /// The part of the last frame that is not yet sent.
    rest: Bytes,
    is_http2: bool,
    frames: u64,
    _open: OpenRequest,
}

impl Reply {
    pub fn new(body: Body, open: OpenRequest, is_http2: bool) -> Self {
        Self { body, rest: Bytes::new(), is_http2, frames: 0, _open: open }
    }

    fn next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(self.slice()))));
        }
        let body = &mut self.body;
        let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(body).poll_frame(context)));
        let frame = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(frame)) => frame,
            Err(_) => {
                tracing::error!("panic while a reply was sent; the reply breaks off");
                self.body = Body::empty();
                Some(Err(axum::Error::new("the reply broke off")))
            }
        };
        Poll::Ready(match frame {
            Some(Ok(frame)) if frame.data_ref().is_some_and(|data| data.len() > self.most()) => match frame.into_data()
            {
                Ok(data) => {
                    self.rest = data;
                    Some(Ok(Frame::data(self.slice())))
                }
                Err(frame) => Some(Ok(frame)),
            },
            other => other,
        })
    }

    /// Most bytes that need no slicing.
    fn most(&self) -> usize {
        if self.is_http2 { LAST } else { SLICE }
    }

    fn slice(&mut self) -> Bytes {
        let left = self.rest.len();
        if !self.is_http2 {
            return self.rest.split_to(left.min(SLICE));
        }
        if left <= LAST {
            // A copy, so that the rest of the part is given back while the stream keeps the last byte.
            return Bytes::copy_from_slice(&std::mem::take(&mut self.rest));
        }
        self.rest.split_to((left - LAST).min(SLICE))
    }
}

impl HttpBody for Reply {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let next = self.next(context);
        if next.is_pending() {
            note_frame(None);
        } else {
            self.frames += 1;
            note_frame(Some(self.frames));
        }
        next
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, body) = (self.rest.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower() + rest);
        if let Some(upper) = body.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}
