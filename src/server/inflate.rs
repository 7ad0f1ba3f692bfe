//! Compressed bodies. They are inflated before their message is read, beside the threads of other requests,
//! and with memory from the budget of their request.

use std::{
    future::poll_fn,
    io::{self, Read},
    pin::Pin,
};

use axum::{
    body::{Body, Bytes, HttpBody, to_bytes},
    extract::Request,
};
use flate2::bufread::MultiGzDecoder;
use futures_util::stream;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use prost::bytes::{Buf, BufMut, BytesMut};

use super::body_memory::BodyMemory;
use crate::service::body::{BodyBudget, MAX_INLINE, off_worker_if};

/// Bytes before a gRPC message: one of flags and four of length.
const FRAME_BYTES: usize = 5;
/// Bytes that are inflated, and taken from the budget, at once.
const STEP: usize = 16 * 1024;

/// The request with the content of its body, which is gzip. A request that is refused before costs no
/// inflation.
pub fn rest(request: Request, max_bytes: usize) -> Request {
    let (mut head, body) = request.into_parts();
    head.headers.remove(CONTENT_ENCODING);
    head.headers.remove(CONTENT_LENGTH);
    let budget = BodyBudget::current();
    let inflating = async move {
        let compressed = to_bytes(body, max_bytes).await.map_err(io::Error::other)?;
        let content = inflate(compressed, max_bytes, budget).await?;
        content.ok_or_else(|| io::Error::other(format!("is longer than {max_bytes} bytes")))
    };
    Request::from_parts(head, Body::from_stream(stream::once(inflating)))
}

/// The call with its messages inflated, if they are gzip. A message that is too long or broken stays one
/// that tonic refuses.
pub fn grpc(
    request: Request,
    max_bytes: usize,
    memory: &BodyMemory,
    budget: Option<&BodyBudget>,
    is_stream: bool,
) -> Request {
    if request.headers().get("grpc-encoding").is_none_or(|coding| coding != "gzip") {
        return request;
    }
    let (mut head, body) = request.into_parts();
    head.headers.remove("grpc-encoding");
    let budget = match is_stream {
        // The messages of a stream take each other's place.
        true => Budget::Message { memory: memory.clone(), held: None },
        false => Budget::Request(budget.cloned()),
    };
    let messages = Messages { body, buffer: BytesMut::new(), max_bytes, budget, is_over: false };
    let parts = stream::unfold(messages, async |mut messages| Some((messages.next().await?, messages)));
    Request::from_parts(head, Body::from_stream(parts))
}

/// The messages of a call, one by one.
struct Messages {
    body: Body,
    buffer: BytesMut,
    max_bytes: usize,
    budget: Budget,
    is_over: bool,
}

enum Budget {
    Request(Option<BodyBudget>),
    Message { memory: BodyMemory, held: Option<BodyBudget> },
}

impl Messages {
    async fn next(&mut self) -> Option<Result<Bytes, axum::Error>> {
        loop {
            if self.is_over {
                return None;
            }
            if let Some(message) = self.message() {
                return Some(self.inflated(message).await);
            }
            match poll_fn(|context| Pin::new(&mut self.body).poll_frame(context)).await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => {
                    self.is_over = true;
                    return Some(Err(error));
                }
                None => {
                    self.is_over = true;
                    // A part of a message, which tonic refuses.
                    return (!self.buffer.is_empty()).then(|| Ok(self.buffer.split().freeze()));
                }
            }
        }
    }

    /// The next message in full with its frame, or the frame alone of one that is too long.
    fn message(&mut self) -> Option<Bytes> {
        let (_, mut length) = self.buffer.split_at_checked(1)?;
        let length = usize::try_from(length.try_get_u32().ok()?).ok()?;
        if length > self.max_bytes {
            self.is_over = true;
            return Some(self.buffer.split_to(FRAME_BYTES).freeze());
        }
        (self.buffer.len() >= FRAME_BYTES + length).then(|| self.buffer.split_to(FRAME_BYTES + length).freeze())
    }

    async fn inflated(&mut self, framed: Bytes) -> Result<Bytes, axum::Error> {
        if self.is_over || framed.first() != Some(&1) {
            return Ok(framed);
        }
        let content = match inflate(framed.slice(FRAME_BYTES..), self.max_bytes, self.budget.next()).await {
            Ok(Some(content)) => content,
            Ok(None) => {
                self.is_over = true;
                return Ok(frame_of(self.max_bytes.saturating_add(1), &[]));
            }
            // No gzip. Nothing inflates it, so tonic refuses it.
            Err(error) if error.kind() != io::ErrorKind::OutOfMemory => return Ok(framed),
            Err(error) => {
                self.is_over = true;
                return Err(axum::Error::new(error));
            }
        };
        Ok(frame_of(content.len(), &content))
    }
}

/// A message of `length` bytes that is not compressed.
fn frame_of(length: usize, content: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(FRAME_BYTES + content.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    frame.extend_from_slice(content);
    frame.freeze()
}

impl Budget {
    /// For the next message.
    fn next(&mut self) -> Option<BodyBudget> {
        match self {
            Self::Request(budget) => budget.clone(),
            Self::Message { memory, held } => {
                let next = memory.of_request();
                Some(held.insert(BodyBudget::new(move |bytes| next.add(bytes))).clone())
            }
        }
    }
}

/// The content of a gzip file with one or more members; `None` if it is longer than `max_bytes`. The first
/// bytes are inflated in place, and the rest beside the threads of other requests.
///
/// # Errors
/// No gzip; [`io::ErrorKind::OutOfMemory`]: the budget is used up.
async fn inflate(compressed: Bytes, max_bytes: usize, budget: Option<BodyBudget>) -> io::Result<Option<Bytes>> {
    if compressed.len() <= MAX_INLINE {
        let content = gunzip(&compressed, max_bytes.min(MAX_INLINE), |_| true)?;
        if content.is_some() || max_bytes <= MAX_INLINE {
            return Ok(content);
        }
    }
    let take = move |bytes| budget.as_ref().is_none_or(|budget| budget.take(bytes));
    let inflating = off_worker_if(true, move || gunzip(&compressed, max_bytes, take)).await;
    inflating.map_err(|error| io::Error::other(error.to_string()))?
}

fn gunzip(compressed: &[u8], max_bytes: usize, take: impl Fn(usize) -> bool) -> io::Result<Option<Bytes>> {
    let (mut decoder, mut content) = (MultiGzDecoder::new(compressed), Vec::new());
    loop {
        if !take(STEP) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        content.reserve_exact(STEP);
        let inflated = decoder.by_ref().take(STEP as u64).read_to_end(&mut content)?;
        if content.len() > max_bytes {
            return Ok(None);
        }
        if inflated < STEP {
            return Ok(Some(content.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    async fn content(compressed: Vec<u8>, max_bytes: usize) -> io::Result<Option<Bytes>> {
        inflate(compressed.into(), max_bytes, None).await
    }

    #[tokio::test]
    async fn a_compressed_body_is_read_within_the_bound_of_its_content() {
        assert_eq!(content(gzip(b"0123456789"), 10).await.unwrap().unwrap(), "0123456789");
        let two = [gzip(b"01234"), gzip(b"56789")].concat();
        assert_eq!(content(two, 10).await.unwrap().unwrap(), "0123456789");
        for (length, max_bytes, is_read) in
            [(1_000_000, 1_000_000, true), (1_000_000, 999_999, false), (101, 100, false), (STEP, STEP, true)]
        {
            let read = content(gzip(&vec![0; length]), max_bytes).await.unwrap();
            assert_eq!(read.map(|content| content.len()), is_read.then_some(length));
        }
        let whole = gzip(b"0123456789");
        for bad in [&b"{}"[..], &whole[..whole.len() - 1], &[whole.clone(), b"x".to_vec()].concat()] {
            assert!(content(bad.to_vec(), 100).await.is_err(), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn content_takes_its_memory_from_the_budget_before_it_is_there() {
        let memory = BodyMemory::new(100_000);
        let held = memory.of_request();
        let budget = BodyBudget::new(move |bytes| held.add(bytes));
        let read = async |length| inflate(gzip(&vec![0; length]).into(), 1_000_000, Some(budget.clone())).await;
        assert_eq!(read(50_000).await.unwrap().unwrap().len(), 50_000);
        assert_eq!(read(1_000_000).await.unwrap_err().kind(), io::ErrorKind::OutOfMemory);
    }

    /// The body of a call whose messages are inflated.
    async fn call(body: Vec<u8>, is_stream: bool) -> Vec<u8> {
        let request = Request::post("/").header("grpc-encoding", "gzip").body(Body::from(body)).unwrap();
        let inflated = grpc(request, 100, &BodyMemory::new(1_000_000), None, is_stream);
        assert!(inflated.headers().is_empty());
        to_bytes(inflated.into_body(), usize::MAX).await.unwrap().to_vec()
    }

    #[tokio::test]
    async fn each_message_of_a_call_is_inflated_and_no_other_is_changed() {
        let framed = |flag: u8, message: &[u8]| {
            [&[flag][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
        };
        let (plain, small, large) = (framed(0, b"ab"), framed(1, &gzip(b"cd")), framed(1, &gzip(&[0; 101])));
        let broken = framed(1, b"no gzip");
        for is_stream in [false, true] {
            assert_eq!(call([plain.clone(), small.clone()].concat(), is_stream).await, b"\0\0\0\0\x02ab\0\0\0\0\x02cd");
            assert_eq!(call(broken.clone(), is_stream).await, broken);
            assert_eq!(call(large.clone(), is_stream).await, b"\0\0\0\0\x65", "a frame that is too long");
            assert_eq!(call(framed(0, &[0; 101]), is_stream).await, b"\0\0\0\0\x65");
            assert_eq!(call(small[..small.len() - 1].to_vec(), is_stream).await, small[..small.len() - 1]);
        }
    }
}
