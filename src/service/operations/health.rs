//! The health of this server.

use std::time::Duration;

use async_trait::async_trait;

/// The source of the health of this server.
#[async_trait]
pub trait Vitals: Send + Sync + 'static {
    async fn health(&self) -> Health;
}

/// The health of this server, as far as it knows.
#[derive(Debug, Clone)]
pub struct Health {
    pub version: &'static str,
    /// The time of the answer of the database; `None` without an answer.
    pub database: Option<Duration>,
    pub is_on_first_host: bool,
    /// Whether Redis answers; `None` if it is not configured.
    pub redis: Option<bool>,
    /// How far the clock of this server is ahead of the clock of the database, in seconds.
    pub clock_skew_seconds: f64,
    /// Postings that wait in each lane.
    pub lanes: Vec<usize>,
    pub parked_accounts: usize,
    pub parked_postings: usize,
    /// Reads of checks since the start, by the source of the answer: memory, Redis, database.
    pub reads: [u64; 3],
    pub hour: Hour,
}

/// The last hour, or the time since the start.
#[derive(Debug, Clone, Default)]
pub struct Hour {
    pub covers: Duration,
    /// The most frequent first.
    pub rpcs: Vec<RpcCount>,
    pub times: Vec<OperationTime>,
}

/// The requests of an rpc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RpcCount {
    pub rpc: String,
    pub requests: u64,
    /// Those that were answered with a fault of the service.
    pub faults: u64,
}

/// The time of an operation. The percentiles are the upper bounds of their buckets.
#[derive(Debug, Clone, PartialEq)]
pub struct OperationTime {
    pub operation: String,
    pub count: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}
