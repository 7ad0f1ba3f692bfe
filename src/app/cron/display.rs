//! The progress of a run: the display for people, and the checkpoint that is stored with the lease.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use super::Job;
use crate::{
    biz::{
        jobs::{
            progress::Progress,
            runs::{Run, store_checkpoint},
        },
        values::error::StoreError,
    },
    data::Store,
};

/// Displays a run while it is in progress.
pub trait Display: Send + Sync {
    /// The run begins. Called once.
    fn begins(&self, from: Beginning);

    /// About `items` items remain, counted from the beginning of the run.
    fn expect(&self, items: u64);

    /// `items` more items are done.
    fn advance(&self, items: u64);

    /// Shows a new line of the report.
    fn report(&self, line: &str);
}

/// The starting point of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// The beginning, because no checkpoint exists.
    First,
    /// The checkpoint of an interrupted run.
    Resumed,
    /// The beginning, as the operator requested, although a checkpoint exists. The checkpoint stays
    /// until this run writes its first one, so a later run can still resume from it.
    Restarted,
}

/// The progress of a run. Each checkpoint is stored with a renewal of the lease.
pub(super) struct RunProgress<'r> {
    store: &'r dyn Store,
    run: &'r Run,
    job: Job,
    display: &'r dyn Display,
    position: Mutex<Option<String>>,
}

impl<'r> RunProgress<'r> {
    pub fn new(
        store: &'r dyn Store,
        run: &'r Run,
        job: Job,
        display: &'r dyn Display,
        position: Option<String>,
    ) -> Self {
        Self { store, run, job, display, position: Mutex::new(position) }
    }
}

#[async_trait]
impl Progress for RunProgress<'_> {
    fn position(&self) -> Option<String> {
        self.position.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn expect(&self, items: u64) {
        self.display.expect(items);
    }

    async fn reached(&self, position: &str, items: u64) -> Result<(), StoreError> {
        store_checkpoint(self.store, self.run, position).await?;
        *self.position.lock().unwrap_or_else(PoisonError::into_inner) = Some(position.to_owned());
        self.display.advance(items);
        Ok(())
    }

    fn report(&self, line: &str) {
        self.display.report(&format!("{}: {line}", self.job));
    }
}

/// The progress of a dry run. Nothing is stored.
pub(super) struct DryProgress<'r> {
    pub job: Job,
    pub display: &'r dyn Display,
}

#[async_trait]
impl Progress for DryProgress<'_> {
    fn position(&self) -> Option<String> {
        None
    }

    fn expect(&self, items: u64) {
        self.display.expect(items);
    }

    async fn reached(&self, _position: &str, items: u64) -> Result<(), StoreError> {
        self.display.advance(items);
        Ok(())
    }

    fn report(&self, line: &str) {
        self.display.report(&format!("{}: {line}", self.job));
    }
}
