//! The state that all streams of a process share, with its bounds and times.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::tokens::TokenCounter;
use crate::biz::settlement::engine::Engine;

/// The time limits of streams.
#[derive(Debug, Clone, Copy)]
pub struct StreamTimeouts {
    /// Lifetime of a hold without a report.
    pub ttl: TimeDelta,
    /// Interval at which new output is made durable.
    pub progress: Duration,
    /// Time in which a broken stream can be opened again before it is charged.
    pub grace: Duration,
    /// A stream without a message for this time counts as broken.
    pub idle_timeout: Duration,
}

/// The state that all streams share.
#[derive(Clone)]
pub struct Meter {
    pub(super) engine: Arc<Engine>,
    pub(super) tokens: Arc<TokenCounter>,
    pub(super) settings: StreamTimeouts,
    /// One permit for each open stream.
    pub(super) open: Arc<Semaphore>,
    /// One permit for each broken stream that waits to be opened again.
    pub(super) waiting: Arc<Semaphore>,
    pub(super) stop: CancellationToken,
}

impl Meter {
    /// Meters at most `streams` streams at once, until `stop`.
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
