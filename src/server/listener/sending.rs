//! Ends HTTP/2 streams whose client takes no reply. The client may read the connection, and answer pings,
//! and yet never open the window of a stream: the stall shows in its own stream alone.

use std::{cell::Cell, future::poll_fn, pin::pin, sync::Arc, task::Poll, time::Duration};

use hyper::rt::Executor;
use tokio::time::sleep;

use super::starts::Starts;

tokio::task_local! {
    /// The number of frames of the reply that the stream was given, while the last one waits for the
    /// client; `None` while the reply waits for the server.
    static WAITING: Cell<Option<u64>>;
}

/// Notes that a reply has given its next frame to the stream, or has none yet. Outside of a stream of
/// HTTP/2 it does nothing.
pub fn note_frame(frames: Option<u64>) {
    let _ = WAITING.try_with(|waiting| waiting.set(frames));
}

/// Runs the streams of one connection of HTTP/2. A stream that waits too long for its client is dropped, which resets it.
#[derive(Clone)]
pub struct StreamExecutor {
    pub write_timeout: Duration,
    pub starts: Arc<Starts>,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for StreamExecutor {
    fn execute(&self, stream: F) {
        let limit = self.write_timeout;
        let mut start = Some(self.starts.begin());
        tokio::spawn(WAITING.scope(Cell::new(None), async move {
            let mut stream = pin!(stream);
            let mut stall = None;
            poll_fn(|context| {
                let polled = stream.as_mut().poll(context);
                start = None;
                if polled.is_ready() {
                    return Poll::Ready(());
                }
                let Some(frame) = WAITING.with(Cell::get) else {
                    stall = None;
                    return Poll::Pending;
                };
                let (_, deadline) = match stall.take() {
                    Some((stalled, deadline)) if stalled == frame => stall.insert((stalled, deadline)),
                    _ => stall.insert((frame, Box::pin(sleep(limit)))),
                };
                let is_late = deadline.as_mut().poll(context).is_ready();
                if is_late {
                    tracing::debug!("a stream was reset, because its client takes no reply");
                }
                if is_late { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }));
    }
}
