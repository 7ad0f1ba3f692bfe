//! The caches of this process: a near one in its memory, and, where there is one, the one
//! it shares with other processes. Settlement tells them what it committed.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::{
    account_cache::AccountCache,
    entry::{Change, Subject},
    single_flight::Loads,
    update_queue::Outbox,
};
use crate::biz::settlement::commit_listener::Readers;

/// How far the near cache is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Every change comes by here, or empties it.
    Always,
    /// Other processes change accounts too: as long ago as this at the most, and only of
    /// accounts that are far from every limit.
    WhileFar(Duration),
}

/// How long a subject is read from the database whose last settlement has an unknown
/// outcome: longer than a database takes to end it.
const DOUBT: Duration = Duration::from_secs(60);

/// How often they are forgotten in the shared cache meanwhile.
const FORGET_AGAIN: Duration = Duration::from_secs(2);
/// Subjects that are doubted one by one; with one more, all are.
const MAX_DOUBTS: usize = 100_000;

/// What no cache can be believed about, and until when.
#[derive(Default)]
struct Doubts {
    of: BTreeMap<Subject, Instant>,
    of_all: Option<Instant>,
    forgotten_at: Option<Instant>,
}

impl Doubts {
    fn add(&mut self, subjects: &[Subject], until: Instant) {
        self.of.extend(subjects.iter().map(|subject| (subject.clone(), until)));
        if self.of.len() > MAX_DOUBTS {
            self.of.clear();
            self.of_all = Some(until);
        }
    }

    fn has(&self, subject: &Subject) -> bool {
        self.of_all.is_some() || self.of.contains_key(subject)
    }
}

/// The caches of this process.
pub struct Caches {
    pub(super) near: Arc<dyn AccountCache>,
    pub(super) trust: Trust,
    pub(super) shared: Option<Arc<dyn AccountCache>>,
    pub(super) loads: Loads,
    outbox: Outbox,
    doubts: Mutex<Doubts>,
    has_doubts: AtomicBool,
}

impl Caches {
    pub fn new(near: Arc<dyn AccountCache>, trust: Trust, shared: Option<Arc<dyn AccountCache>>) -> Self {
        Self {
            near,
            trust,
            shared,
            loads: Loads::default(),
            outbox: Outbox::default(),
            doubts: Mutex::default(),
            has_doubts: AtomicBool::new(false),
        }
    }

    /// Drops what is cached of subjects that were changed by other means than a settlement.
    pub async fn forget(&self, subjects: &[Subject]) {
        for subject in subjects {
            self.loads.leave(subject);
        }
        // First: who finds nothing waiting here finds it in the shared cache.
        if self.shared.is_some() {
            self.outbox.forget(subjects);
        }
        self.near.forget(subjects).await;
    }

    /// Empties the near cache: another process changed nobody knows what.
    pub async fn forget_near(&self) {
        if let Err(error) = self.near.clear().await {
            tracing::error!(%error, "the near cache was not emptied");
        }
    }

    /// Tells the shared cache what happens, until `stop`.
    pub async fn deliver(&self, stop: &CancellationToken) {
        match &self.shared {
            Some(shared) => self.outbox.deliver(&**shared, stop).await,
            None => stop.cancelled().await,
        }
    }

    /// Tells the shared cache what is left to tell; false when it could not be told.
    pub async fn flush(&self) -> bool {
        match &self.shared {
            Some(shared) => self.outbox.flush(&**shared).await,
            None => true,
        }
    }

    /// Whether nothing is kept for long: there is no use in loading ahead.
    pub fn forgets_soon(&self) -> bool {
        self.shared.is_none() && self.trust != Trust::Always
    }

    /// Whether no cache can be believed about a subject.
    pub(super) fn is_doubted(&self, subject: &Subject) -> bool {
        self.has_doubts.load(Ordering::Acquire) && self.doubts().has(subject)
    }

    /// Whether the shared cache can't be believed about a subject.
    pub(super) fn is_late(&self, subject: &Subject) -> bool {
        self.outbox.has(subject)
    }

    /// Ends the doubts that are old enough: by now the database decided.
    pub async fn end_doubts(&self) {
        let now = Instant::now();
        let (over, all_over) = {
            let doubts = self.doubts();
            let over = doubts.of.iter().filter(|(_, until)| **until <= now).map(|(subject, _)| subject.clone());
            (over.collect::<Vec<_>>(), doubts.of_all.is_some_and(|until| until <= now))
        };
        self.forget_doubted_again(now).await;
        if over.is_empty() && !all_over {
            return;
        }
        // Forgotten before they are believed again.
        self.forget(&over).await;
        if all_over {
            self.outbox.forget_all();
            self.forget_near().await;
        }
        let mut doubts = self.doubts();
        doubts.of.retain(|_, until| *until > now);
        doubts.of_all = doubts.of_all.filter(|until| *until > now);
        self.has_doubts.store(!doubts.of.is_empty() || doubts.of_all.is_some(), Ordering::Release);
    }

    /// Others may have loaded what it was before the doubted settlement ended.
    async fn forget_doubted_again(&self, now: Instant) {
        let again: Vec<Subject> = {
            let mut doubts = self.doubts();
            if doubts.of.is_empty() || doubts.forgotten_at.is_some_and(|at| now < at + FORGET_AGAIN) {
                return;
            }
            doubts.forgotten_at = Some(now);
            doubts.of.keys().cloned().collect()
        };
        if self.shared.is_some() {
            self.outbox.forget(&again);
        }
    }

    fn doubts(&self) -> MutexGuard<'_, Doubts> {
        self.doubts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Readers for Caches {
    async fn committed(&self, changes: Vec<Change>) {
        for change in &changes {
            self.loads.leave(&change.subject());
        }
        // First: who finds nothing waiting here finds it in the shared cache.
        if self.shared.is_some() {
            self.outbox.changed(changes.clone());
        }
        self.near.apply(&changes).await;
    }

    async fn missed(&self, subjects: Vec<Subject>) {
        self.forget(&subjects).await;
    }

    async fn doubted(&self, subjects: Vec<Subject>) {
        {
            let until = Instant::now() + DOUBT;
            let mut doubts = self.doubts();
            doubts.add(&subjects, until);
            self.has_doubts.store(true, Ordering::Release);
        }
        self.forget(&subjects).await;
    }
}
