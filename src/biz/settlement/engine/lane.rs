//! One lane: settles the postings of its users, one batch after another.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    job::{Job, LaneLimits, places},
    parking::Parking,
    settler::{Settler, given_up, pauses},
    trace,
};
use crate::biz::{
    settlement::{
        ledger::SettledBatch,
        posting::{Batch, Posting},
    },
    values::{
        error::{Error, StoreError},
        spans,
    },
};

/// After more conflicts than this a batch is not retried as a whole. One of its postings may
/// conflict every time, so its accounts are settled one by one.
const MAX_CONFLICTS: u32 = 8;
/// A batch is not retried as a whole either after conflicts for this long.
const LONG_CONFLICT: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(super) struct Lane {
    pub settler: Settler,
    pub parking: Arc<Parking>,
    pub limits: LaneLimits,
}

impl Lane {
    /// Settles the queued jobs until `stop` is cancelled and the queue is empty.
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
            let now = Instant::now();
            let mut batch = Vec::with_capacity(taken);
            for mut job in waiting.drain(..) {
                // A posting that waited for `max_wait` is refused without an attempt. Under
                // overload this bounds the wait of the other postings. After an outage it prevents
                // charges whose callers have given up.
                if now.duration_since(job.ticket.queued) >= self.limits.max_wait {
                    let why = "the request waited too long in the queue and nothing was changed; retry later";
                    job.ticket.reply.refuse(Error::Overloaded(why.into()));
                } else {
                    job.ticket.deadline = now + self.limits.retry_timeout;
                    batch.extend(self.parking.admit(job));
                }
            }
            // Refused checks make a batch of their own, because a batch of calls alone may take one round trip.
            let is_note = |job: &Job| matches!(job.posting, Posting::NoteRefusal(_));
            let (notes, batch): (Vec<_>, Vec<_>) = batch.into_iter().partition(is_note);
            for batch in [batch, notes].into_iter().filter(|batch| !batch.is_empty()) {
                self.settle(batch, now + self.limits.retry_timeout).await;
            }
        }
    }

    /// Settles a batch. Answers every job before the deadline, or hands it to the parking.
    async fn settle(&self, jobs: Vec<Job>, deadline: Instant) {
        let (postings, mut tickets): (Vec<_>, Vec<_>) = jobs.into_iter().map(|job| (job.posting, job.ticket)).unzip();
        let batch = self.settler.batch(postings);
        let mut is_unsure = false;
        let span = trace::settlement(&mut places(&mut tickets), batch.postings.len());
        let attempts = self.attempt(&batch, deadline, &mut is_unsure);
        let settled = spans::traced(span, attempts).await;
        tickets.iter_mut().for_each(|ticket| ticket.is_unsure |= is_unsure);
        let error = match settled {
            Ok(settled) => return self.parking.answer(&batch, tickets, settled, None),
            Err(error) => error,
        };
        match error {
            StoreError::Failed(why) if tickets.len() == 1 => self.parking.fail(&batch, tickets, &why).await,
            StoreError::Failed(_) | StoreError::Conflict(_) => {
                // One posting that the database cannot store must not fail the other postings.
                tracing::error!(%error, batch = tickets.len(), "batch failed; settling its accounts one by one");
                self.parking.isolate(&batch, tickets);
            }
            StoreError::Unavailable(_) => {
                tracing::error!(%error, batch = tickets.len(), "batch not settled before its deadline; the outcome is unknown");
                self.settler.outcome_unknown(&batch).await;
                for ticket in tickets {
                    ticket.reply.refuse(given_up(true, ""));
                }
            }
        }
    }

    /// Settles a batch, and retries while a retry may succeed. A retry is safe, because the ledger
    /// finds the committed trace ids and does not charge them again.
    async fn attempt(
        &self,
        batch: &Arc<Batch>,
        deadline: Instant,
        is_unsure: &mut bool,
    ) -> Result<SettledBatch, StoreError> {
        let (mut pauses, mut conflicts, started) = (pauses(), 0, Instant::now());
        loop {
            let error = match self.settler.try_once(batch, deadline, is_unsure).await {
                Ok(settled) => return Ok(settled),
                Err(error) => error,
            };
            conflicts += u32::from(matches!(error, StoreError::Conflict(_)));
            let is_stuck = conflicts > MAX_CONFLICTS || (conflicts > 0 && started.elapsed() > LONG_CONFLICT);
            let pause = pauses.next().unwrap_or(LONG_CONFLICT);
            if matches!(error, StoreError::Failed(_)) || is_stuck || Instant::now() + pause >= deadline {
                return Err(error);
            }
            tracing::warn!(%error, batch = batch.postings.len(), "batch not settled; retrying");
            tokio::time::sleep(pause).await;
        }
    }
}
