//! A posting on its way through the engine, and how many the engine takes on.

use std::time::Duration;

use tokio::time::Instant;

use super::reply::Reply;
use crate::biz::settlement::posting::Posting;

/// How much the engine takes on.
#[derive(Debug, Clone, Copy)]
pub struct LaneLimits {
    /// Lanes; each has at most one transaction in flight.
    pub lanes: usize,
    /// Postings that may wait in one lane before callers get OVERLOADED.
    pub queue: usize,
    /// Postings in one transaction at most.
    pub batch: usize,
    /// How long a posting may wait in its lane.
    pub max_wait: Duration,
    /// How long a batch is tried while the database does not answer, and how long a posting
    /// waits for a lock that another transaction holds.
    pub retry_timeout: Duration,
    pub parking: ParkingLimits,
}

/// How much waits beside the lanes for locks that other transactions hold.
#[derive(Debug, Clone, Copy)]
pub struct ParkingLimits {
    /// Accounts that wait at once; callers of one more get OVERLOADED.
    pub accounts: usize,
    /// Postings of one waiting account; its callers beyond it get OVERLOADED.
    pub postings: usize,
    /// Transactions that wait at once, each on a connection of its own.
    pub connections: usize,
    /// How long the postings of an account are refused that the database cannot settle.
    pub quarantine: Duration,
}

/// A posting that waits to be settled.
pub(super) struct Job {
    pub posting: Posting,
    pub ticket: Ticket,
}

/// The caller's side of a posting.
pub(super) struct Ticket {
    pub queued: Instant,
    /// When the posting is given up. Set by its lane.
    pub deadline: Instant,
    /// Whether an attempt may have committed the posting unnoticed.
    pub is_unsure: bool,
    pub reply: Reply,
}
