//! Metering of streams: the output of a model is counted while it is delivered, made durable
//! at short intervals, and charged once, however its stream ends.

mod disconnect;
mod metered;
mod session;
pub mod tokens;

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{
    metering::tokens::{Encoding, TokenCounter},
    reports::record::Usage,
    settlement::{
        engine::{Engine, Settled},
        posting::Effect,
        transaction::Transaction,
    },
    values::{error::Error, ids::ModelName, money::Money},
};

pub use self::session::Session;

/// What a gateway says of its stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Output as it is delivered; may end inside a character.
    Output(Vec<u8>),
    /// It lives. With what the model's vendor has told of it so far.
    Heartbeat(Option<Usage>),
    Finish(Finish),
}

/// The end of a stream, as its gateway wishes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Finish {
    /// The vendor's count; what we counted when absent.
    pub usage: Option<Usage>,
    /// As in a commit.
    pub cost: Option<Money>,
    pub count: Option<u32>,
    /// The part of the vendor's output that is in no text.
    pub hidden_output_tokens: u32,
}

/// What a gateway is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// Its reservation, and whether that stood already.
    Opened(Box<Transaction>, bool),
    State(State),
    /// Its charge, and whether that was made already.
    Finished(Box<Transaction>, bool),
    /// The stream has ended, and why.
    Failed(Error),
}

/// What a stream comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    pub output_tokens: u32,
    /// Those that are charged even if the process is killed.
    pub durable_output_tokens: u32,
    /// What of the balance it takes.
    pub amount: Money,
    /// What of it is held.
    pub held: Money,
    /// The hold does not cover another token, and can't grow.
    pub stop: bool,
}

/// How a stream ended.
#[derive(Debug, Default)]
pub struct Ended {
    /// What came of its finish, where it had one.
    pub finished: Option<Settled>,
    /// Where it broke: its charge, or the reservation that was freed. `None` also where
    /// another stream, a commit or a release came first, and where the sweep has to settle it.
    pub settled: Option<(Transaction, Effect)>,
    /// Where the vendor counted too.
    pub compared: Option<Comparison>,
}

/// Two counts of the same output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Comparison {
    pub ours: u32,
    pub vendors: u32,
}

impl Comparison {
    /// The part of the vendor's output that is in no text left out. `None` for a model whose
    /// encoding is not known: ours is only a stand-in there.
    pub fn new(model: Option<&ModelName>, ours: u32, vendors: Usage, hidden_output_tokens: u32) -> Option<Self> {
        Encoding::known(model?.as_str())?;
        Some(Self { ours, vendors: vendors.output_tokens.saturating_sub(hidden_output_tokens) })
    }
}

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
    engine: Arc<Engine>,
    tokens: Arc<TokenCounter>,
    settings: StreamTimeouts,
    /// A place for each stream that is open.
    open: Arc<Semaphore>,
    /// And for each that broke and waits.
    waiting: Arc<Semaphore>,
    stop: CancellationToken,
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
