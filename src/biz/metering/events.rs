//! The messages of a stream, in both directions, and its result.

use crate::biz::{
    metering::tokens::Encoding,
    settlement::{
        engine::Settled,
        posting::{Effect, Served},
        transaction::Transaction,
    },
    values::{
        error::Error,
        ids::{ModelName, ServiceTier},
        money::Money,
        usage::Usage,
    },
};

/// A message of the gateway about its stream.
#[derive(Debug, Clone)]
pub enum Event {
    /// Delivered output; may end inside a character.
    Output(Vec<u8>),
    /// A sign of life, with the vendor's usage so far, if known.
    Heartbeat(Option<Usage>),
    Finish(Finish),
}

/// The gateway's request to finish its stream.
#[derive(Debug, Clone, Default)]
pub struct Finish {
    /// The vendor's usage; our own count when absent.
    pub usage: Option<Usage>,
    /// Cost and count, as in a commit.
    pub cost: Option<Money>,
    pub count: Option<u32>,
    /// Output tokens of the vendor that are in no text, such as reasoning.
    pub hidden_output_tokens: u32,
    /// As in a commit.
    pub service_tier: Option<ServiceTier>,
    pub served: Option<Served>,
}

/// A message to the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// The reservation, and whether it existed already.
    Opened(Box<Transaction>, bool),
    State(MeterState),
    /// The charge, and whether it is a replay.
    Finished(Box<Transaction>, bool),
    /// The stream has ended, with the reason.
    Failed(Error),
}

/// The current figures of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeterState {
    pub output_tokens: u32,
    /// Tokens that are charged even if the process is killed.
    pub durable_output_tokens: u32,
    /// The amount that the stream charges to the balance so far.
    pub amount: Money,
    /// The amount held on the balance for the stream.
    pub held: Money,
    /// The gateway must stop: the hold does not cover another token and can't grow.
    pub stop: bool,
}

/// The end of a stream.
#[derive(Debug, Default)]
pub struct Ended {
    /// The outcome of the gateway's finish, if there was one.
    pub finished: Option<Settled>,
    /// Of a broken stream: the charge, or the released reservation. `None` also if another
    /// stream, a commit or a release came first, or if the stream is left to the sweep.
    pub settled: Option<(Transaction, Effect)>,
    /// Present if the vendor counted too.
    pub compared: Option<Comparison>,
}

/// Two counts of the same output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Comparison {
    pub ours: u32,
    pub vendors: u32,
}

impl Comparison {
    /// Compares without the vendor's hidden tokens. `None` for a model of unknown encoding, whose
    /// count is only an estimate.
    pub fn new(model: Option<&ModelName>, ours: u32, vendors: Usage, hidden_output_tokens: u32) -> Option<Self> {
        Encoding::known(model?.as_str())?;
        Some(Self { ours, vendors: vendors.output_tokens.saturating_sub(hidden_output_tokens) })
    }
}
