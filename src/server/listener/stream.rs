//! The bytes of one connection, plain or within TLS, and the protocol that they speak.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::observed::Observed;

/// The protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

/// The first bytes of each HTTP/2 connection.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One connection.
pub struct Stream {
    transport: Transport,
    /// The bytes that showed the protocol, until they are read again.
    first: Bytes,
}

enum Transport {
    Plain(Observed),
    Tls(Box<TlsStream<Observed>>),
}

impl Stream {
    pub fn plain(stream: Observed) -> Self {
        Self { transport: Transport::Plain(stream), first: Bytes::new() }
    }

    pub fn tls(stream: TlsStream<Observed>) -> Self {
        Self { transport: Transport::Tls(Box::new(stream)), first: Bytes::new() }
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
        if self.first.is_empty() {
            return transport!(self, poll_read(context, buffer));
        }
        let length = self.first.len().min(buffer.remaining());
        buffer.put_slice(&self.first.split_to(length));
        Poll::Ready(Ok(()))
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
