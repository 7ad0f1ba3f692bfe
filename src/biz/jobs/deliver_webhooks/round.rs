//! The steps of one round of the loop.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    time::Instant,
};

use tokio_util::sync::CancellationToken;

use super::{AT_LEAST, IN_ALL, OF_WEBHOOK, POLL, READ_PAUSE, READS, RELOAD, Run, SEAL, TICK, sends::Ended};
use crate::biz::{
    events::{EventFilter, EventPage, Position},
    values::{error::StoreError, ids::WebhookId},
    webhooks::{
        Failed, MAX_WEBHOOKS,
        queue::{Queue, RetryRead, Step, Times},
    },
};

/// Events of a page of the feed.
const PAGE: u32 = 200;
/// Events of a retry that are read at once.
const OF_RETRY: u32 = 10;

impl Run<'_> {
    /// Reads, and starts deliveries. If the database does not answer, the deliveries on their way go on while the lease
    /// lasts.
    pub(super) async fn round(&mut self) -> Result<(), StoreError> {
        if self.paused_until.is_some_and(|until| Instant::now() < until) {
            return Ok(());
        }
        self.rounds = self.rounds.wrapping_add(1);
        let round = async {
            self.reload_if_due().await?;
            self.bound_refused();
            self.read_feed().await?;
            self.start_sends().await
        };
        let ended = round.await;
        match ended {
            Err(error @ (StoreError::Conflict(_) | StoreError::Unavailable(_))) if Instant::now() < self.held_until => {
                tracing::warn!(%error, "read for webhooks failed; it is repeated");
                self.paused_until = Some(Instant::now() + READ_PAUSE);
                Ok(())
            }
            _ => {
                self.paused_until = None;
                ended
            }
        }
    }

    /// The ids of the queues. Each round begins with another one, because the reads and the save of a round are bounded.
    pub(super) fn turn(&self) -> Vec<WebhookId> {
        let mut ids: Vec<_> = self.queues.keys().cloned().collect();
        let first = self.rounds % ids.len().max(1);
        ids.rotate_left(first);
        ids
    }

    /// Reads the webhooks again, so that changes by operators count.
    pub(super) async fn reload_if_due(&mut self) -> Result<(), StoreError> {
        if self.reloaded_at.is_some_and(|at| at.elapsed() < RELOAD) {
            return Ok(());
        }
        let (store, now) = (&self.deliverer.store, self.deliverer.calendar.now().utc);
        let stored = store.webhooks().await?;
        let resends = store.resends().await?;
        if self.sealed_at.is_none_or(|at| at.elapsed() >= SEAL) {
            self.sealed_at = Some(Instant::now());
            self.deliverer.seal_again(&stored.webhooks).await;
        }
        // A webhook that was deleted, and perhaps made anew, has nothing in common with the old one.
        let is_same = |queue: &Queue| stored.webhooks.iter().any(|webhook| queue.is_of(webhook));
        self.queues.retain(|_, queue| is_same(queue));
        let (began, mut is_complete) = (Instant::now(), true);
        for webhook in stored.webhooks {
            let id = webhook.id.clone();
            if let Some(queue) = self.queues.get_mut(&id) {
                queue.renew(webhook, now);
            } else if webhook.is_served() && began.elapsed() >= READS {
                // The next round reads it, behind a save that renews the lease.
                is_complete = false;
            } else if webhook.is_served() && self.retries() < self.bounds.loaded {
                let retries = store.retries(&id).await?;
                self.queues.insert(id, Queue::new(webhook, retries));
            }
        }
        // A webhook that is served again begins from its stored progress.
        self.queues.retain(|_, queue| queue.webhook.is_served() || queue.in_flight() > 0 || queue.has_unsaved());
        for queue in self.queues.values_mut() {
            let id = queue.id().clone();
            queue.add_resends(resends.iter().filter(|resend| resend.webhook == id));
        }
        self.last = self.last.max(stored.last);
        self.reloaded_at = is_complete.then(Instant::now);
        Ok(())
    }

    /// The retries in memory.
    fn retries(&self) -> usize {
        self.queues.values().map(Queue::retries).sum()
    }

    /// Ends the webhook with most refused users, if all webhooks together have too many.
    pub(super) fn bound_refused(&mut self) {
        let most = self.bounds.refused;
        let served = || self.queues.values().filter(|queue| queue.webhook.is_served());
        if served().map(Queue::refused_users).sum::<usize>() < most {
            return;
        }
        let Some(id) = served().max_by_key(|queue| queue.refused_users()).map(|queue| queue.id().clone()) else {
            return;
        };
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let users = queue.refused_users();
        let reason = format!("the receivers refused events of {most} users in all; this one of {users}, the most");
        queue.fail(reason, self.deliverer.calendar.now().utc);
        warn_of_failure(queue);
    }

    /// Reads a page of the feed for each queue that has room, at intervals or while there is more to read.
    pub(super) async fn read_feed(&mut self) -> Result<(), StoreError> {
        let is_due = self.polled_at.is_none_or(|at| at.elapsed() >= POLL);
        if is_due {
            self.polled_at = Some(Instant::now());
        }
        if is_due && !self.queues.is_empty() {
            match self.deliverer.feed.place_events().await {
                // The reader of the feed has logged it. Events with positions, retries and tests go on.
                Err(StoreError::Conflict(_)) => {}
                placed => drop(placed?),
            }
        }
        // A webhook with few retries goes on, however many the others have.
        let part = match self.retries() < self.bounds.retries {
            true => usize::MAX,
            false => self.bounds.retries / MAX_WEBHOOKS,
        };
        // Queues at the same position share a page.
        let mut pages: BTreeMap<Position, EventPage> = BTreeMap::new();
        let began = Instant::now();
        for id in self.turn() {
            let Some(queue) = self.queues.get_mut(&id).filter(|queue| queue.retries() < part) else { continue };
            let Some(after) = queue.reads_after().filter(|after| is_due || *after < self.last) else { continue };
            let page = match pages.entry(after) {
                Entry::Occupied(page) => page.into_mut(),
                // The next round reads it.
                Entry::Vacant(_) if began.elapsed() >= READS => {
                    self.polled_at = None;
                    continue;
                }
                Entry::Vacant(place) => {
                    place.insert(self.deliverer.feed.read_placed(&EventFilter::default(), after, PAGE).await?)
                }
            };
            queue.take_page(page);
            self.last = self.last.max(page.next + u64::from(page.has_more));
        }
        Ok(())
    }

    /// Starts the deliveries for which there is room, while the lease lasts.
    pub(super) async fn start_sends(&mut self) -> Result<(), StoreError> {
        let most = (IN_ALL / self.queues.len().max(1)).clamp(AT_LEAST, OF_WEBHOOK);
        let (now, began) = (self.deliverer.calendar.now().utc, Instant::now());
        for id in self.turn() {
            // Ends: each step takes room or reads, and the reads have a time limit. A read may take long, so the lease
            // is looked at before each step.
            while self.may_send() {
                let Some(queue) = self.queues.get_mut(&id).filter(|queue| queue.in_flight() < most) else { break };
                match queue.next(now) {
                    Step::Send(delivery) => self.sends.start(&queue.webhook, delivery),
                    // The next round reads it.
                    Step::Read(_) if began.elapsed() >= READS => break,
                    Step::Read(read) => {
                        let RetryRead { key, after, until } = &read;
                        let store = &self.deliverer.store;
                        let events = store.events_of(key, &queue.webhook.types, (*after, *until), OF_RETRY);
                        queue.take_retry(&read, events.await?);
                    }
                    Step::Wait => break,
                }
            }
        }
        Ok(())
    }

    /// Waits for the end of a delivery, or for the next round.
    pub(super) async fn wait(&mut self, stop: &CancellationToken) -> Result<(), StoreError> {
        let stopping = async {
            match stop.is_cancelled() {
                // The deliveries on their way still end.
                true => std::future::pending().await,
                false => stop.cancelled().await,
            }
        };
        let first = tokio::select! {
            ended = self.sends.next() => Some(ended?),
            () = tokio::time::sleep(TICK) => None,
            () = stopping => None,
        };
        let mut next = first;
        // Ends: no delivery starts meanwhile.
        while let Some(ended) = next {
            self.end(ended);
            next = self.sends.try_next()?;
        }
        Ok(())
    }

    /// Notes the end of a delivery.
    pub(super) fn end(&mut self, ended: Ended) {
        let Ended { webhook, made_at, delivery, outcome, began_at, took } = ended;
        match outcome.failure {
            None => self.done.accepted += 1,
            Some(_) => self.done.failed += 1,
        }
        self.deliverer.observer.attempted(outcome, took);
        let queue = self.queues.get_mut(&webhook).filter(|queue| queue.webhook.created_at == made_at);
        let Some(queue) = queue else { return };
        let had_failed = queue.webhook.progress.failed.is_some();
        queue.done(*delivery, outcome, Times { began_at, took, now: self.deliverer.calendar.now().utc });
        if !had_failed {
            warn_of_failure(queue);
        }
    }
}

fn warn_of_failure(queue: &Queue) {
    if let Some(Failed { reason, .. }) = &queue.webhook.progress.failed {
        tracing::warn!(webhook = %queue.id(), reason, "webhook failed; it gets no events until an operator activates it");
    }
}
