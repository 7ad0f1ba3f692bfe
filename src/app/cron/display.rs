//! The progress of a run: shown, and kept with its lease.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use super::Job;
use crate::{
    biz::{
        jobs::{progress::Progress, runs::Run},
        values::error::StoreError,
    },
    data::Store,
};

/// How a run is shown while it goes on.
pub trait Display: Send + Sync {
    /// Once, as it begins.
    fn begins(&self, from: Beginning);

    /// So many items are to be done, or about as many, from where it begins.
    fn expect(&self, items: u64);

    /// So many items more are done.
    fn advance(&self, items: u64);

    /// A line of the report that was found just now.
    fn tell(&self, line: &str);
}

/// Where a run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// At the beginning: there is nothing to go on from.
    First,
    /// Where another got to that was cut short.
    Resumed,
    /// At the beginning, as was asked, though another got further. A run that resumes goes
    /// on from there until this one has got somewhere.
    Anew,
}

/// The progress of a run, kept with its lease.
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
        if !self.store.renew_run(self.run, Some(position)).await? {
            return Err(StoreError::Unavailable("the lease of the run is lost".into()));
        }
        *self.position.lock().unwrap_or_else(PoisonError::into_inner) = Some(position.to_owned());
        self.display.advance(items);
        Ok(())
    }

    fn tell(&self, line: &str) {
        self.display.tell(&format!("{}: {line}", self.job));
    }
}

/// The progress of a dry run, of which nothing is kept.
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

    fn tell(&self, line: &str) {
        self.display.tell(&format!("{}: {line}", self.job));
    }
}
