//! A TCP stream that notes its activity. It lies below TLS, whose buffers would hide a client that takes
//! nothing. It is read while no stream of it waits for its first turn.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{activity::Activity, starts::Starts};

/// After this many bytes others have their turn: some twenty requests. Without a pause h2 would read all that has come
/// before it begins a stream.
const MOST_IN_TURN: usize = 2_048;

pub struct Observed {
    pub stream: TcpStream,
    pub activity: Arc<Activity>,
    pub starts: Arc<Starts>,
    /// Bytes.
    pub read_in_turn: usize,
}

impl Observed {
    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.activity.set_blocked(written.is_pending());
        written
    }
}

impl AsyncRead for Observed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // HTTP/1.1 has one request at a time. A short body must come with its head, so that a reply without a look at the
        // body keeps the connection.
        if self.activity.is_http1() {
            let read = Pin::new(&mut self.stream).poll_read(context, buffer);
            if read.is_ready() {
                self.activity.read();
            }
            return read;
        }
        if self.read_in_turn >= MOST_IN_TURN {
            self.read_in_turn = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(self.starts.poll_none(context));
        let most = buffer.remaining().min(MOST_IN_TURN);
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(most));
        let read = Pin::new(&mut self.stream).poll_read(context, &mut part);
        let filled = part.filled().len();
        if read.is_ready() {
            self.activity.read();
            self.read_in_turn += filled;
        } else {
            self.read_in_turn = 0;
        }
        buffer.advance(filled);
        read
    }
}

impl AsyncWrite for Observed {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
