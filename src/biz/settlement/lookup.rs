//! The transactions of a batch that are looked up before the rule decides. Most trace ids are new, so calls are decided
//! and inserted without a look-up of their ids. A batch with an id that exists is settled again after a full look-up.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use super::{
    keys::Keys,
    posting::{Batch, Outcome, Posting},
};
use crate::biz::values::ids::{TraceId, UserId};

/// The transactions that are looked up before the rule decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// The transactions that end, which must exist. All others are taken for new; if one is not,
    /// its insert fails.
    Ending,
    All,
}

impl Lookup {
    /// The transactions of a batch that are looked up.
    pub fn transactions<'k>(self, keys: &'k Keys<'k>) -> &'k BTreeSet<(&'k UserId, &'k TraceId)> {
        match self {
            Self::Ending => &keys.ending,
            Self::All => &keys.transactions,
        }
    }
}

/// Full look-ups after a repeated id, because retries arrive in bursts, for example after an outage.
#[derive(Debug)]
pub struct FullLookups {
    /// The number of batches after a repeated id.
    batches: u32,
    left: AtomicU32,
}

impl FullLookups {
    pub fn new(batches: u32) -> Self {
        Self { batches, left: AtomicU32::new(0) }
    }

    /// The look-up of the next batch.
    pub fn next_lookup(&self) -> Lookup {
        match self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)) {
            Ok(_) => Lookup::All,
            Err(_) => Lookup::Ending,
        }
    }

    /// Whether the next batch has a full look-up.
    pub fn is_due(&self) -> bool {
        self.left.load(Relaxed) > 0
    }

    /// Begins with the next batch, after a batch had an id that exists.
    pub fn begin(&self) {
        self.left.store(self.batches, Relaxed);
    }
}

/// The calls that were refused without a look-up of their ids, although an earlier attempt may have
/// committed them. The first outcome then counts.
pub fn refused_as_new<'b>(
    batch: &'b Batch,
    outcomes: &'b [Outcome],
) -> impl Iterator<Item = (&'b UserId, &'b TraceId)> {
    let settled = batch.postings.iter().zip(outcomes);
    settled.filter(|(_, outcome)| matches!(outcome, Outcome::Refused(_))).filter_map(|(posting, _)| match posting {
        Posting::Charge(call) => Some((&call.user, &call.trace)),
        Posting::Reserve(reserve) => Some((&reserve.call.user, &reserve.call.trace)),
        _ => None,
    })
}
