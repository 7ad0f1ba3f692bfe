//! One attempt to settle a batch, and the notification of the listener.

use std::{sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::time::Instant;
use tracing::Instrument;

use crate::biz::{
    account::catalog::Catalog,
    settlement::{
        commit_listener::CommitListener,
        keys::Keys,
        ledger::{Gather, Ledger, SettledBatch},
        lock::Lock,
        posting::{Batch, Posting},
    },
    values::{
        cache_key::CacheKey,
        calendar::Calendar,
        error::{Error, StoreError},
        ids::ApiKeyId,
    },
};

/// Pauses between two attempts. The pause doubles from the first value to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// The dependencies that lanes and parking share.
#[derive(Clone)]
pub(super) struct Settler {
    pub ledger: Arc<dyn Ledger>,
    pub listener: Arc<dyn CommitListener>,
    pub catalog: Arc<Catalog>,
    pub calendar: Arc<Calendar>,
}

impl Settler {
    pub fn batch(&self, postings: Vec<Posting>) -> Arc<Batch> {
        let (at, periods) = (self.calendar.now(), self.calendar.periods());
        Arc::new(Batch { postings, at, catalog: self.catalog.clone(), periods })
    }

    /// Settles a batch once, and notifies the listener of the changes. Sets `is_unsure` if the
    /// attempt may have committed although its answer was lost.
    pub async fn try_once(
        &self,
        batch: &Arc<Batch>,
        deadline: Instant,
        is_unsure: &mut bool,
    ) -> Result<SettledBatch, StoreError> {
        let (ledger, of_task) = (self.ledger.clone(), batch.clone());
        let settled = contain(async move { ledger.settle(&of_task).await }, deadline, is_unsure).await?;
        self.announce(batch, settled, is_unsure).await
    }

    /// As [`Self::try_once`], behind a lock. The batch is the one that `gather` gives when the lock is
    /// granted. The caller announces the result.
    pub async fn try_behind(
        &self,
        lock: &Lock,
        gather: Box<Gather>,
        deadline: Instant,
        is_unsure: &mut bool,
    ) -> Result<SettledBatch, StoreError> {
        let (ledger, lock) = (self.ledger.clone(), lock.clone());
        contain(async move { ledger.settle_behind(&lock, &*gather).await }, deadline, is_unsure).await
    }

    /// Notifies the listener of the changes of a batch.
    ///
    /// # Errors
    /// [`StoreError::Failed`]: the ledger returned another number of outcomes than it should.
    pub async fn announce(
        &self,
        batch: &Batch,
        mut settled: SettledBatch,
        is_unsure: &mut bool,
    ) -> Result<SettledBatch, StoreError> {
        let left_out = &settled.left_out;
        let settled_count = match left_out.is_empty() {
            true => batch.postings.len(),
            false => batch.postings.iter().filter(|posting| !left_out.contains(posting.user())).count(),
        };
        if settled.outcomes.len() != settled_count {
            *is_unsure = true;
            return Err(StoreError::Failed("the ledger returned the wrong number of outcomes".into()));
        }
        if !settled.events.is_empty() {
            self.listener.told(&settled.events);
        }
        if *is_unsure {
            self.listener.invalidate(cache_keys(batch, std::mem::take(&mut settled.api_keys))).await;
        } else if !settled.changes.is_empty() {
            self.listener.committed(std::mem::take(&mut settled.changes)).await;
        }
        Ok(settled)
    }

    /// Notifies the listener that a batch has an unknown outcome.
    pub async fn outcome_unknown(&self, batch: &Batch) {
        self.listener.outcome_unknown(cache_keys(batch, Vec::new())).await;
    }
}

/// Settles in a separate task, which contains a panic, so that it fails the batch and not the lane. If
/// the database is silent until the deadline, the task is aborted and the outcome is unknown. The task
/// has ended when this returns.
async fn contain(
    settling: impl Future<Output = Result<SettledBatch, StoreError>> + Send + 'static,
    deadline: Instant,
    is_unsure: &mut bool,
) -> Result<SettledBatch, StoreError> {
    // The round trips of the task lie below the settlement.
    let mut task = tokio::spawn(settling.in_current_span());
    match tokio::time::timeout_at(deadline, &mut task).await {
        Ok(Ok(settled)) => settled.inspect_err(|error| *is_unsure |= matches!(error, StoreError::Unavailable(_))),
        Ok(Err(panic)) => {
            *is_unsure = true;
            Err(StoreError::Failed(format!("settling panicked: {panic}")))
        }
        Err(_) => {
            task.abort();
            *is_unsure = true;
            // It may have ended by itself meanwhile. The outcome stays unknown.
            let _ = task.await;
            Err(StoreError::Unavailable("no answer in time".into()))
        }
    }
}

/// The pauses between attempts at a batch.
pub(super) fn pauses() -> impl Iterator<Item = Duration> + Send {
    let pauses = ExponentialBuilder::default()
        .with_min_delay(FIRST_PAUSE)
        .with_max_delay(LONGEST_PAUSE)
        .with_jitter()
        .without_max_times();
    pauses.build()
}

/// The error for a posting that was not settled before its deadline.
pub(super) fn given_up(is_unsure: bool, why: &'static str) -> Error {
    match is_unsure {
        true => Error::Overloaded(
            "the database does not answer and the outcome is unknown; retry with the same id to learn it".into(),
        ),
        false => Error::Overloaded(format!("{why}; nothing was changed; retry later").into()),
    }
}

/// The cache keys of all state that a batch may change, including the API keys of the reservations
/// that it ends.
fn cache_keys(batch: &Batch, api_keys: Vec<ApiKeyId>) -> Vec<CacheKey> {
    let keys = Keys::of(batch);
    let users = keys.users.into_iter().cloned().map(CacheKey::User);
    let named = keys.api_keys.into_iter().cloned();
    users.chain(named.chain(api_keys).map(CacheKey::ApiKey)).collect()
}
