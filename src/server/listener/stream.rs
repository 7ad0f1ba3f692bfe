//! The bytes of one connection, plain or within TLS, and the protocol that they speak.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::body::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::{observed::Observed, starts::Starts};

/// The protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

/// The first bytes of each HTTP/2 connection.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// After this many bytes others have their turn: some twenty requests. Without a pause h2 would read all that has come
/// before it begins a stream.
const MOST_IN_TURN: usize = 2_048;

/// One connection.
pub struct Stream {
    transport: Transport,
    /// The bytes that showed the protocol, until they are read again.
    first: Bytes,
    turns: Option<Turns>,
}

/// The turns in which a connection of HTTP/2 is read.
struct Turns {
    starts: Arc<Starts>,
    /// The bytes of this turn.
    read: usize,
}

enum Transport {
    Plain(Observed),
    Tls(Box<TlsStream<Observed>>),
}

impl Stream {
    pub fn plain(stream: Observed) -> Self {
        Self { transport: Transport::Plain(stream), first: Bytes::new(), turns: None }
    }

    pub fn tls(stream: TlsStream<Observed>) -> Self {
        Self { transport: Transport::Tls(Box::new(stream)), first: Bytes::new(), turns: None }
    }

    /// From now on it is read in turns, and only while no stream of it waits for its first step. HTTP/1.1 has one request at
    /// a time, whose short body must come with its head: a reply without a look at the body then keeps the connection.
    pub fn take_turns(&mut self, starts: Arc<Starts>) {
        self.turns = Some(Turns { starts, read: 0 });
    }

    /// Reads until the first bytes show the protocol. It has no deadline: a client may send nothing, or
    /// only a part of the preface.
    ///
    /// # Errors
    /// The connection broke or ended.
    pub async fn protocol(&mut self) -> io::Result<Protocol> {
        let mut start = [0; PREFACE.len()];
        let mut length = 0;
        let protocol = loop {
            let read = match &mut self.transport {
                Transport::Plain(stream) => stream.read(&mut start[length..]).await?,
                Transport::Tls(stream) => stream.read(&mut start[length..]).await?,
            };
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            length += read;
            if start[..length] != PREFACE[..length] {
                break Protocol::Http1;
            }
            if length == PREFACE.len() {
                break Protocol::Http2;
            }
        };
        self.first = Bytes::copy_from_slice(&start[..length]);
        Ok(protocol)
    }
}

/// Delegates to the transport.
macro_rules! transport {
    ($stream:ident, $method:ident($($argument:expr),*)) => {
        match &mut $stream.transport {
            Transport::Plain(stream) => Pin::new(stream).$method($($argument),*),
            Transport::Tls(stream) => Pin::new(&mut **stream).$method($($argument),*),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.first.is_empty() {
            let length = self.first.len().min(buffer.remaining());
            buffer.put_slice(&self.first.split_to(length));
            return Poll::Ready(Ok(()));
        }
        let Some(turns) = &mut self.turns else {
            return transport!(self, poll_read(context, buffer));
        };
        if turns.read >= MOST_IN_TURN {
            turns.read = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(turns.starts.poll_none(context));
        let most = buffer.remaining().min(MOST_IN_TURN);
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(most));
        let read = transport!(self, poll_read(context, &mut part));
        let filled = part.filled().len();
        buffer.advance(filled);
        if let Some(turns) = &mut self.turns {
            turns.read = if read.is_ready() { turns.read + filled } else { 0 };
        }
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        transport!(self, poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        transport!(self, poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        transport!(self, poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        transport!(self, poll_shutdown(context))
    }
}
