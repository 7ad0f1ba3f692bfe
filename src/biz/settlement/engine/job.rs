//! A posting that waits in a lane or in the parking, and the limits of the engine.

use std::time::Duration;

use tokio::time::Instant;

use super::{reply::Reply, trace::Place};
use crate::biz::settlement::posting::Posting;

/// The limits of the engine.
#[derive(Debug, Clone, Copy)]
pub struct LaneLimits {
    /// Lanes; each has at most one transaction in flight.
    pub lanes: usize,
    /// Postings that may wait in one lane before callers get OVERLOADED.
    pub queue: usize,
    /// Postings in one transaction at most.
    pub batch: usize,
    /// Longest wait of a posting in its lane.
    pub max_wait: Duration,
    /// Longest time that a batch is retried while the database is unavailable, and longest wait of
    /// a posting for a lock of another transaction.
    pub retry_timeout: Duration,
    pub parking: ParkingLimits,
}

/// The limits of the parking: accounts that wait for locks of other transactions.
#[derive(Debug, Clone, Copy)]
pub struct ParkingLimits {
    /// Most parked accounts. Postings of a further account get OVERLOADED.
    pub accounts: usize,
    /// Most parked postings of one account. Further postings of the account get OVERLOADED.
    pub postings: usize,
    /// Most transactions that wait for locks at once, each on a connection of its own.
    pub connections: usize,
    /// Time for which the postings of a quarantined account are refused.
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
    /// Time at which the posting is refused. Set by its lane.
    pub deadline: Instant,
    /// Whether an attempt may have committed the posting although its answer was lost.
    pub is_unsure: bool,
    /// Its place in the trace of its request; `None` unless the request is traced.
    pub place: Option<Box<Place>>,
    pub reply: Reply,
}

/// The places of the traced requests behind tickets.
pub(super) fn places(tickets: &mut [Ticket]) -> Vec<&mut Place> {
    tickets.iter_mut().filter_map(|ticket| ticket.place.as_deref_mut()).collect()
}
