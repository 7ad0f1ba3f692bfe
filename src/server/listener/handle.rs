//! The connection of a request, as the layers behind the listener see it.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::places::UnprovenPlace;

/// One connection. The listener adds it to each of its requests.
#[derive(Clone)]
pub struct Connection(Arc<State>);

struct State {
    drain: CancellationToken,
    is_proven: AtomicBool,
    /// Held until a request has proven itself.
    unproven: Mutex<Option<UnprovenPlace>>,
}

impl Connection {
    pub fn new(unproven: Option<UnprovenPlace>) -> Self {
        let (drain, is_proven) = (CancellationToken::new(), AtomicBool::new(unproven.is_none()));
        Self(Arc::new(State { drain, is_proven, unproven: Mutex::new(unproven) }))
    }

    /// Notes that a request of the connection has proven itself. From now on the connection makes room
    /// for no other.
    pub fn prove(&self) {
        if !self.0.is_proven.swap(true, Relaxed) {
            drop(self.0.unproven.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
    }

    /// Tells streams without an end of their own that the connection takes no further requests.
    pub fn drain(&self) {
        self.0.drain.cancel();
    }

    /// Whether the connection takes no further requests.
    pub fn is_drained(&self) -> bool {
        self.0.drain.is_cancelled()
    }

    /// Completes when the connection takes no further requests.
    pub fn drained(&self) -> WaitForCancellationFutureOwned {
        self.0.drain.clone().cancelled_owned()
    }
}
