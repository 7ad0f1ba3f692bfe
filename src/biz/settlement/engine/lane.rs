//! One lane: settles what waits for its users, one batch after another, and tells those who
//! read of what it changed.

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
    /// How long a batch is tried while the database does not answer.
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
    /// Settles what comes, until there is nothing left after `stop`.
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
                // What waited too long is refused untried: under too much load the wait of
                // the others stays bounded, and after an outage nothing is made that its
                // caller has long given up.
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
                // A caller that went away needs no answer.
                let _ = reply.send(outcome);
            }
        }
    }

    /// An outcome for every posting, whatever happens to the batch, and within the
    /// lane's retry_timeout.
    async fn settle(&self, postings: Vec<Posting>) -> Vec<Outcome> {
        let deadline = Instant::now() + self.limits.retry_timeout;
        let batch = Arc::new(Batch { postings, at: self.calendar.now(), catalog: self.catalog.clone() });
        match self.attempt(&batch, deadline).await {
            Ok(outcomes) => outcomes,
            Err(error @ (StoreError::Failed(_) | StoreError::Conflict(_))) if batch.postings.len() > 1 => {
                // One posting that the database cannot take must not fail the others.
                tracing::error!(%error, batch = batch.postings.len(), "a batch failed; settling its postings one by one");
                self.settle_one_by_one(&batch, deadline).await
            }
            Err(error) => batch.postings.iter().map(|_| Outcome::Refused(given_up(error.clone()))).collect(),
        }
    }

    /// As [`Self::settle`]; an outage stands for all postings behind it. One that only
    /// takes long, as behind a lock that another process does not let go, has a time of
    /// its own.
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

    /// Settles a batch, again and again while that is safe and may help. It is safe
    /// because ids already committed are found and not charged twice.
    async fn attempt(&self, batch: &Arc<Batch>, deadline: Instant) -> std::result::Result<Vec<Outcome>, StoreError> {
        let (mut pause, mut conflicts, started) = (FIRST_PAUSE, 0, Instant::now());
        // Whether an attempt may have committed and nobody knows what.
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
            tracing::warn!(%error, batch = batch.postings.len(), "settling a batch again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Tells those who read what the batch changed.
    async fn publish(&self, batch: &Batch, settlement: SettledBatch, is_unsure: bool) -> Vec<Outcome> {
        if is_unsure {
            self.listener.invalidate(cache_keys(batch, settlement.api_keys)).await;
        } else if !settlement.changes.is_empty() {
            self.listener.committed(settlement.changes).await;
        }
        settlement.outcomes
    }

    /// In a task of its own: a panic below costs one batch and not the lane, and a
    /// database that has gone silent is given up at the deadline, outcome unknown.
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

/// Everything that a batch may change, with the API keys of the reservations that it ends.
fn cache_keys(batch: &Batch, api_keys: Vec<ApiKeyId>) -> Vec<CacheKey> {
    let keys = Keys::of(batch);
    let users = keys.users.into_iter().cloned().map(CacheKey::User);
    let named = keys.api_keys.into_iter().cloned();
    users.chain(named.chain(api_keys).map(CacheKey::ApiKey)).collect()
}

/// Conflicts after which a batch is not tried again as a whole: they pass, or one of its
/// postings will never pass.
const MAX_CONFLICTS: u32 = 8;
/// Nor after conflicts that took as long together.
const LONG_CONFLICT: Duration = Duration::from_secs(1);
/// How long a posting is tried that is settled alone because its batch was stuck.
const SINGLE_RETRY_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two attempts at a batch, doubling from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

fn given_up(error: StoreError) -> Error {
    match error {
        StoreError::Failed(why) => Error::Internal(why),
        StoreError::Conflict(_) | StoreError::Unavailable(_) => {
            tracing::error!(%error, "gave up on a batch");
            Error::Overloaded(
                "the database does not answer and the outcome is unknown; retry with the same id to learn it".into(),
            )
        }
    }
}
