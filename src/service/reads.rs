//! The reads of lists and statistics. Those of one account take turns, so that one user does not slow the reads
//! and charges of all others.

use std::sync::Arc;

use super::exports::Exports;
use crate::{
    biz::{
        limits::turns::{Turn, Turns},
        values::{
            error::{Error, Result},
            ids::UserId,
        },
    },
    config::ServerLimits,
};

/// The bounds of the services that read lists and make exports.
#[derive(Clone)]
pub struct ReadBounds {
    pub exports: Arc<Exports>,
    pub reads: Reads,
}

/// The reads of all accounts. Clones share them.
#[derive(Clone)]
pub struct Reads(Arc<Turns<UserId>>);

impl Reads {
    pub fn new(limits: &ServerLimits) -> Self {
        Self(Turns::new(limits.reads_per_account, limits.waiting_reads_per_account))
    }

    /// Waits for the turn of a read. The request has a deadline, so the wait has one.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if too many reads of the account wait.
    pub async fn begin(&self, user: &UserId) -> Result<Turn<UserId>> {
        let turn = self.0.take(user).await;
        turn.ok_or_else(|| Error::Overloaded("too many reads of this account wait; retry later".into()))
    }
}
