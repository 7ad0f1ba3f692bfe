//! The state that all streams of a process share, with its bounds and times.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::tokens::TokenCounter;
use crate::biz::settlement::engine::Engine;

/// How streams are metered.
#[derive(Debug, Clone, Copy)]
pub struct StreamTimeouts {
    /// How long a hold lasts that is not reported on.
    pub ttl: TimeDelta,
    /// How often what is new of a stream is made durable.
    pub progress: Duration,
    /// How long a stream that broke can be opened again.
    pub grace: Duration,
    /// A stream that is silent for so long has broken.
    pub idle_timeout: Duration,
}

/// What all streams share.
#[derive(Clone)]
pub struct Meter {
    pub(super) engine: Arc<Engine>,
    pub(super) tokens: Arc<TokenCounter>,
    pub(super) settings: StreamTimeouts,
    /// A place for each stream that is open.
    pub(super) open: Arc<Semaphore>,
    /// And for each that broke and waits.
    pub(super) waiting: Arc<Semaphore>,
    pub(super) stop: CancellationToken,
}

impl Meter {
    /// For so many streams at once, until `stop`.
    pub fn new(
        engine: Arc<Engine>,
        tokens: Arc<TokenCounter>,
        settings: StreamTimeouts,
        streams: usize,
        stop: CancellationToken,
    ) -> Self {
        let (open, waiting) = (Arc::new(Semaphore::new(streams)), Arc::new(Semaphore::new(streams)));
        Self { engine, tokens, settings, open, waiting, stop }
    }
}
