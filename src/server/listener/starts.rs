//! Bounds the streams of one connection of HTTP/2 that wait for their first turn. A client may open a thousand streams
//! at once. If all of them stood in the queue of the runtime, each step of every other request would wait behind them.
//! So the connection reads on when those that it has read have had their turn.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;

#[derive(Default)]
pub struct Starts {
    waiting: AtomicUsize,
    /// Reads the connection.
    reader: AtomicWaker,
}

/// A stream that waits for its first turn.
pub struct Start(Arc<Starts>);

impl Starts {
    /// Counts a stream until the result is dropped.
    pub fn begin(self: &Arc<Self>) -> Start {
        self.waiting.fetch_add(1, Relaxed);
        Start(self.clone())
    }

    /// Ready while no stream waits.
    pub fn poll_none(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.are_none() {
            return Poll::Ready(());
        }
        self.reader.register(context.waker());
        // The last start may have ended before the registration.
        if self.are_none() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn are_none(&self) -> bool {
        self.waiting.load(Relaxed) == 0
    }
}

impl Drop for Start {
    fn drop(&mut self) {
        if self.0.waiting.fetch_sub(1, Relaxed) == 1 {
            self.0.reader.wake();
        }
    }
}
