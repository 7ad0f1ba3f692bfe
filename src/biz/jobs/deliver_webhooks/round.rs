//! The steps of one round of the loop.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    time::Instant,
};

use tokio_util::sync::CancellationToken;

use super::{AT_LEAST, IN_ALL, OF_WEBHOOK, POLL, RELOAD, Run, TICK, sends::Ended};
use crate::biz::{
    events::{EventFilter, EventPage, Position, place_new},
    values::error::StoreError,
    webhooks::{
        Failed,
        queue::{Queue, RetryRead, Step, Times},
    },
};

/// Events of a page of the feed.
const PAGE: u32 = 200;
/// Events of a retry that are read at once.
const OF_RETRY: u32 = 10;

impl Run<'_> {
    /// Reads the webhooks again, so that changes by operators count.
    pub(super) async fn reload_if_due(&mut self) -> Result<(), StoreError> {
        if self.reloaded_at.is_some_and(|at| at.elapsed() < RELOAD) {
            return Ok(());
        }
        let (store, now) = (&self.deliverer.store, self.deliverer.calendar.now().utc);
        let stored = store.webhooks().await?;
        let resends = store.resends().await?;
        // A webhook that was deleted, and perhaps made anew, has nothing in common with the old one.
        let is_same = |queue: &Queue| stored.webhooks.iter().any(|webhook| queue.is_of(webhook));
        self.queues.retain(|_, queue| is_same(queue));
        for webhook in stored.webhooks {
            let id = webhook.id.clone();
            match self.queues.get_mut(&id) {
                Some(queue) => queue.renew(webhook, now),
                None if webhook.is_served() => {
                    let retries = store.retries(&id).await?;
                    self.queues.insert(id, Queue::new(webhook, retries));
                }
                None => {}
            }
        }
        // A webhook that is served again begins from its stored progress.
        self.queues.retain(|_, queue| queue.webhook.is_served() || queue.in_flight() > 0 || queue.has_unsaved());
        for queue in self.queues.values_mut() {
            let id = queue.id().clone();
            queue.add_resends(resends.iter().filter(|resend| resend.webhook == id));
        }
        self.last = self.last.max(stored.last);
        self.reloaded_at = Some(Instant::now());
        Ok(())
    }

    /// Reads a page of the feed for each queue that has room, at intervals or while there is more to read.
    pub(super) async fn read_feed(&mut self) -> Result<(), StoreError> {
        let is_due = self.polled_at.is_none_or(|at| at.elapsed() >= POLL);
        if is_due {
            self.polled_at = Some(Instant::now());
        }
        if is_due && !self.queues.is_empty() {
            place_new(&*self.deliverer.feed).await?;
        }
        // Queues at the same position share a page.
        let mut pages: BTreeMap<Position, EventPage> = BTreeMap::new();
        for queue in self.queues.values_mut() {
            let Some(after) = queue.reads_after().filter(|after| is_due || *after < self.last) else { continue };
            let page = match pages.entry(after) {
                Entry::Occupied(page) => page.into_mut(),
                Entry::Vacant(place) => {
                    place.insert(self.deliverer.feed.placed_events(&EventFilter::default(), after, PAGE).await?)
                }
            };
            queue.take_page(page);
            self.last = self.last.max(page.next + u64::from(page.has_more));
        }
        Ok(())
    }

    /// Starts the deliveries for which there is room, while the lease lasts.
    pub(super) async fn start_sends(&mut self) -> Result<(), StoreError> {
        if !self.may_send() {
            return Ok(());
        }
        let most = (IN_ALL / self.queues.len().max(1)).clamp(AT_LEAST, OF_WEBHOOK);
        let now = self.deliverer.calendar.now().utc;
        let Self { deliverer, queues, sends, .. } = self;
        for queue in queues.values_mut() {
            while queue.in_flight() < most {
                match queue.next(now) {
                    Step::Send(delivery) => sends.start(&queue.webhook, delivery),
                    Step::Read(read) => {
                        let RetryRead { key, after, until } = &read;
                        let events = deliverer.store.events_of(key, &queue.webhook.types, (*after, *until), OF_RETRY);
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
    fn end(&mut self, ended: Ended) {
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
        if let Some(Failed { reason, .. }) = queue.webhook.progress.failed.as_ref().filter(|_| !had_failed) {
            tracing::warn!(%webhook, reason, "webhook failed; it gets no events until an operator activates it");
        }
    }
}
