//! Runs of regular jobs. However many processes know a schedule, each of its periods is
//! run once: who runs a job holds its lease, and what was run is remembered.

use std::{borrow::Cow, time::Duration};

use async_trait::async_trait;

use crate::biz::values::error::StoreError;

/// How long a lease lasts that is not renewed. The database's clock tells, so that those
/// of the processes may differ.
pub const LEASE: Duration = Duration::from_secs(60);

/// Runs that are this old are forgotten; longer than any period.
pub const REMEMBERED: Duration = Duration::from_secs(60 * 24 * 3_600);

/// A period of a job, and who would run it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub job: &'static str,
    /// At most 56 characters, none of them `%` or `_`. What stands behind a space is what the
    /// period is run for: a run for something else undoes it.
    pub period: String,
    /// A run by hand is none of those of the schedule: it is run whatever was run, they are
    /// run whatever became of it, and it is remembered only until one by hand is done.
    pub is_by_hand: bool,
    /// Unique among all processes.
    pub owner: String,
}

impl Run {
    /// What the run is remembered by, unique for its job; at most 64 characters.
    pub fn key(&self) -> Cow<'_, str> {
        if self.is_by_hand { format!("{} by hand", self.period).into() } else { self.period.as_str().into() }
    }

    /// The beginning that all runs of the period share, if they can be for different things.
    pub fn shared_period(&self) -> Option<&str> {
        self.period.split_once(' ').map(|(began, _)| began)
    }
}

/// What came of the attempt to begin a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// It is ours, and goes on from where it got to.
    Ours { position: Option<String> },
    /// Another process runs the job, this period or another.
    Elsewhere,
    /// The period was run.
    Done,
}

/// Where runs are kept.
#[async_trait]
pub trait RunStore: Send + Sync + 'static {
    /// Takes the lease of the job, unless another has it or the period was run. Runs of the
    /// same period for something else are forgotten: from now on they are undone.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Conflict`], [`StoreError::Failed`].
    async fn begin_run(&self, run: &Run) -> Result<Begun, StoreError>;

    /// Renews the lease, and keeps where the run got to; false when the lease is lost, and
    /// the run must end.
    ///
    /// # Errors
    /// As [`Self::begin_run`].
    async fn renew_run(&self, run: &Run, position: Option<&str>) -> Result<bool, StoreError>;

    /// Gives the lease back. A period that is not done can be begun again at once.
    ///
    /// # Errors
    /// As [`Self::begin_run`]; the lease then ends by itself.
    async fn end_run(&self, run: &Run, is_done: bool) -> Result<(), StoreError>;
}
