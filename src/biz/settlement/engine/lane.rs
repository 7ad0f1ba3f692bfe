//! A lane settles the waiting postings of its users, one batch after another, and notifies the caches
//! of the changes.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::biz::{
    account::catalog::Catalog,
    settlement::{
        commit_listener::CommitListener,
        keys::Keys,
        ledger::{Ledger, SettledBatch},
        posting::{Batch, Outcome, Posting},
    },
    values::{
        cache_key::CacheKey,
        calendar::Calendar,
        error::{Error, StoreError},
        ids::ApiKeyId,
    },
};

/// The limits of the engine.
#[derive(Debug, Clone, Copy)]
pub struct LaneLimits {
    /// Number of lanes. Each has at most one transaction in flight.
    pub lanes: usize,
    /// Most postings that wait in one lane. Further callers get OVERLOADED.
    pub queue: usize,
    /// Most postings in one transaction.
    pub batch: usize,
    /// Longest wait of a posting in its lane.
    pub max_wait: Duration,
    /// Time for which a batch is retried while the database is unavailable.
    pub retry_timeout: Duration,
}

/// A posting that waits in a lane, and its caller.
pub(super) struct Job {
    pub posting: Posting,
    pub queued: Instant,
    pub reply: oneshot::Sender<Outcome>,
}

#[derive(Clone)]
pub(super) struct Lane {
    pub ledger: Arc<dyn Ledger>,
    pub listener: Arc<dyn CommitListener>,
    pub catalog: Arc<Catalog>,
    pub calendar: Arc<Calendar>,
    pub limits: LaneLimits,
}

impl Lane {
    /// Settles postings until `stop`, and then the remaining ones.
    pub async fn run(self, mut jobs: mpsc::Receiver<Job>, stop: CancellationToken) {
        let mut waiting = Vec::new();
        loop {
            let taken = tokio::select! {
                taken = jobs.recv_many(&mut waiting, self.limits.batch) => taken,
                () = stop.cancelled(), if !jobs.is_closed() => {
                    jobs.close();
                    continue;
                }
            };
            if taken == 0 {
                return;
            }
            let (mut postings, mut replies) = (Vec::with_capacity(taken), Vec::with_capacity(taken));
            for job in waiting.drain(..) {
                // A posting that has waited too long is refused before any attempt. Under
                // overload the wait of the others stays bounded. After an outage no posting
                // is settled whose caller has long given up.
                if job.queued.elapsed() >= self.limits.max_wait {
                    let _ = job.reply.send(Outcome::Refused(Error::Overloaded(
                        "waited too long and was not made; retry later".into(),
                    )));
                } else {
                    postings.push(job.posting);
                    replies.push(job.reply);
                }
            }
            if postings.is_empty() {
                continue;
            }
            let outcomes = self.settle(postings).await;
            for (reply, outcome) in replies.into_iter().zip(outcomes) {
                // The caller may have gone away.
                let _ = reply.send(outcome);
            }
        }
    }

    /// Returns an outcome for every posting, even if the batch fails, within the lane's
    /// `retry_timeout`.
    async fn settle(&self, postings: Vec<Posting>) -> Vec<Outcome> {
        let deadline = Instant::now() + self.limits.retry_timeout;
        let batch = Arc::new(Batch { postings, at: self.calendar.now(), catalog: self.catalog.clone() });
        match self.attempt(&batch, deadline).await {
            Ok(outcomes) => outcomes,
            Err(error @ (StoreError::Failed(_) | StoreError::Conflict(_))) if batch.postings.len() > 1 => {
                // A posting that the database can't store must not fail the others.
                tracing::error!(%error, batch = batch.postings.len(), "batch failed; settling its postings one by one");
                self.settle_one_by_one(&batch, deadline).await
            }
            Err(error) => batch.postings.iter().map(|_| Outcome::Refused(given_up(error.clone()))).collect(),
        }
    }

    /// As [`Self::settle`], with one transaction per posting. An outage ends all remaining postings.
    /// A posting that only takes long, for example behind a lock of another process, fails alone
    /// after [`SINGLE_RETRY_TIMEOUT`].
    async fn settle_one_by_one(&self, batch: &Batch, deadline: Instant) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(batch.postings.len());
        let mut outage = None;
        for posting in &batch.postings {
            let alone = Batch { postings: vec![posting.clone()], at: batch.at, catalog: batch.catalog.clone() };
            let limit = deadline.min(Instant::now() + SINGLE_RETRY_TIMEOUT);
            let settled = match &outage {
                Some(error) => Err(StoreError::clone(error)),
                None => self.attempt(&Arc::new(alone), limit).await,
            };
            match settled {
                Ok(outcome) => outcomes.extend(outcome),
                Err(error) => {
                    let in_time = Instant::now() < limit;
                    if Instant::now() >= deadline || (in_time && matches!(error, StoreError::Unavailable(_))) {
                        outage = Some(error.clone());
                    }
                    outcomes.push(Outcome::Refused(given_up(error)));
                }
            }
        }
        outcomes
    }

    /// Settles a batch, with retries. A retry is safe, because ids that have committed are found and
    /// not charged twice.
    async fn attempt(&self, batch: &Arc<Batch>, deadline: Instant) -> std::result::Result<Vec<Outcome>, StoreError> {
        let (mut pause, mut conflicts, started) = (FIRST_PAUSE, 0, Instant::now());
        // Whether an attempt may have committed.
        let mut is_unsure = false;
        loop {
            let error = match self.try_once(batch, deadline).await {
                Ok(settlement) if settlement.outcomes.len() == batch.postings.len() => {
                    return Ok(self.publish(batch, settlement, is_unsure).await);
                }
                Ok(_) => StoreError::Failed("the number of outcomes is wrong".into()),
                Err(error) => error,
            };
            is_unsure |= !matches!(error, StoreError::Conflict(_));
            conflicts += u32::from(matches!(error, StoreError::Conflict(_)));
            let is_stuck = conflicts > MAX_CONFLICTS || (conflicts > 0 && started.elapsed() > LONG_CONFLICT);
            let is_final = matches!(error, StoreError::Failed(_)) || is_stuck;
            if is_final || Instant::now() + pause >= deadline {
                if is_unsure {
                    self.listener.outcome_unknown(cache_keys(batch, Vec::new())).await;
                }
                return Err(error);
            }
            tracing::warn!(%error, batch = batch.postings.len(), "batch not settled; retrying");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Notifies the caches of the changes of the batch.
    async fn publish(&self, batch: &Batch, settlement: SettledBatch, is_unsure: bool) -> Vec<Outcome> {
        if is_unsure {
            self.listener.invalidate(cache_keys(batch, settlement.api_keys)).await;
        } else if !settlement.changes.is_empty() {
            self.listener.committed(settlement.changes).await;
        }
        settlement.outcomes
    }

    /// Settles a batch once, in a task of its own. A panic then fails the batch and not the lane. A
    /// database that went silent is given up at the deadline, with an unknown outcome.
    async fn try_once(&self, batch: &Arc<Batch>, deadline: Instant) -> std::result::Result<SettledBatch, StoreError> {
        let (ledger, batch) = (self.ledger.clone(), batch.clone());
        let mut task = tokio::spawn(async move { ledger.settle(&batch).await });
        match tokio::time::timeout_at(deadline, &mut task).await {
            Ok(Ok(settled)) => settled,
            Ok(Err(panic)) => Err(StoreError::Failed(format!("settling panicked: {panic}"))),
            Err(_) => {
                task.abort();
                Err(StoreError::Unavailable("no answer in time".into()))
            }
        }
    }
}

/// All cache keys that a batch may change, with the API keys of the reservations that it ends.
fn cache_keys(batch: &Batch, api_keys: Vec<ApiKeyId>) -> Vec<CacheKey> {
    let keys = Keys::of(batch);
    let users = keys.users.into_iter().cloned().map(CacheKey::User);
    let named = keys.api_keys.into_iter().cloned();
    users.chain(named.chain(api_keys).map(CacheKey::ApiKey)).collect()
}

/// Most conflicts of a batch. After them its postings are settled one by one, because one of them may
/// never succeed.
const MAX_CONFLICTS: u32 = 8;
/// Longest total time of conflicts of a batch, with the same effect.
const LONG_CONFLICT: Duration = Duration::from_secs(1);
/// Time for which a posting is retried alone after its batch failed.
const SINGLE_RETRY_TIMEOUT: Duration = Duration::from_secs(1);
/// Pauses between attempts at a batch: the first one, doubled up to the longest one.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

fn given_up(error: StoreError) -> Error {
    match error {
        StoreError::Failed(why) => Error::Internal(why),
        StoreError::Conflict(_) | StoreError::Unavailable(_) => {
            tracing::error!(%error, "batch given up; its callers get OVERLOADED");
            Error::Overloaded(
                "the database does not answer and the outcome is unknown; retry with the same id to learn it".into(),
            )
        }
    }
}
