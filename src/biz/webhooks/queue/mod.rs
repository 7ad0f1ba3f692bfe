//! The deliveries of one webhook, in the memory of the process that has the lease. It decides what is sent next,
//! and reads and writes nothing.

mod outcome;
#[cfg(test)]
mod tests;
mod unsaved;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    Progress, Webhook,
    delivery::{Attempt, Message, OrderKey, Resend, StoredRetry},
};
use crate::biz::{
    events::{Event, EventPage, Position},
    values::ids::WebhookId,
};

/// Events of the feed that wait in memory, at which no further ones are read.
const ENOUGH: usize = 100;
/// Most retries. With as many, the feed is not read on until one ends.
const MAX_RETRIES: usize = 1_000;
/// Failures in a row after which the receiver counts as down. Then only retries are tried, at their times.
const DOWN_AFTER: u32 = 8;

/// The deliveries of one webhook.
#[derive(Debug)]
pub struct Queue {
    pub webhook: Webhook,
    /// The feed was read up to it.
    read_to: Position,
    /// Events that were read and are not sent yet.
    waiting: VecDeque<Event>,
    /// The positions of the events that are read and have no end yet.
    open: BTreeSet<Position>,
    retries: BTreeMap<OrderKey, Retry>,
    /// Deliveries beside the feed.
    resends: VecDeque<Resend>,
    /// The orders that have a delivery on its way.
    busy: BTreeSet<OrderKey>,
    /// Deliveries beside the feed on their way, and those that are made and not saved.
    resending: BTreeMap<Uuid, bool>,
    unsaved: Unsaved,
}

/// The changes since the last save.
#[derive(Debug, Default)]
struct Unsaved {
    is_changed: bool,
    retries: BTreeSet<OrderKey>,
    accepted: VecDeque<Attempt>,
    failed: VecDeque<Attempt>,
}

#[derive(Debug)]
struct Retry {
    /// As [`StoredRetry::next`].
    next: Position,
    /// The last event of the retry is at this position or before it.
    until: Position,
    attempts: u32,
    first_at: Option<DateTime<Utc>>,
    next_at: DateTime<Utc>,
    /// The first events of the retry, as far as they were read.
    events: VecDeque<Event>,
}

/// A delivery to make.
#[derive(Debug)]
pub struct Delivery {
    pub message: Message,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// An event of the feed, from a retry or from the window.
    Feed(Event),
    Resend(Uuid),
}

/// The times of a delivery.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    pub began_at: DateTime<Utc>,
    pub took: Duration,
    pub now: DateTime<Utc>,
}

/// Events to read for a retry.
#[derive(Debug, PartialEq, Eq)]
pub struct RetryRead {
    pub key: OrderKey,
    pub after: Position,
    pub until: Position,
}

/// The next step.
#[derive(Debug)]
pub enum Step {
    Send(Box<Delivery>),
    Read(RetryRead),
    /// Nothing can be done now.
    Wait,
}

impl Queue {
    /// The deliveries from the stored progress on.
    pub fn new(webhook: Webhook, retries: Vec<StoredRetry>) -> Self {
        let position = webhook.progress.position;
        let retry = |stored: StoredRetry| {
            let StoredRetry { key, next, attempts, first_at, next_at } = stored;
            // Events behind the stored position are read again, and then prolong the retry.
            let until = position.max(next);
            (key, Retry { next, until, attempts, first_at, next_at, events: VecDeque::new() })
        };
        Self {
            webhook,
            read_to: position,
            waiting: VecDeque::new(),
            open: BTreeSet::new(),
            retries: retries.into_iter().map(retry).collect(),
            resends: VecDeque::new(),
            busy: BTreeSet::new(),
            resending: BTreeMap::new(),
            unsaved: Unsaved::default(),
        }
    }

    pub fn id(&self) -> &WebhookId {
        &self.webhook.id
    }

    /// Whether the queue belongs to this webhook, and not to an earlier one with the same id.
    pub fn is_of(&self, webhook: &Webhook) -> bool {
        self.webhook.id == webhook.id && self.webhook.created_at == webhook.created_at
    }

    /// Takes a webhook as it is stored now. The progress is that of this process, unless an operator has
    /// restarted the webhook.
    pub fn renew(&mut self, stored: Webhook, now: DateTime<Utc>) {
        let is_restarted = stored.restarts != self.webhook.restarts;
        let stored_end = stored.progress.failed.clone();
        let progress = std::mem::take(&mut self.webhook.progress);
        self.webhook = Webhook { progress, ..stored };
        if is_restarted {
            let Progress { failures, failing_since, failed, .. } = &mut self.webhook.progress;
            (*failures, *failing_since, *failed) = (0, None, stored_end);
            for (key, retry) in &mut self.retries {
                (retry.attempts, retry.first_at, retry.next_at) = (0, None, now);
                self.unsaved.retries.insert(key.clone());
            }
            self.unsaved.is_changed = true;
        }
    }

    /// Adds the deliveries beside the feed that are new.
    pub fn add_resends<'r>(&mut self, stored: impl Iterator<Item = &'r Resend>) {
        for resend in stored {
            let is_known =
                self.resending.contains_key(&resend.id) || self.resends.iter().any(|old| old.id == resend.id);
            if !is_known {
                self.resends.push_back(resend.clone());
            }
        }
    }

    /// The position behind which the feed is to be read; `None` while there is enough to send.
    pub fn reads_after(&self) -> Option<Position> {
        let has_room = self.waiting.len() < ENOUGH && self.retries.len() < MAX_RETRIES;
        (has_room && !self.is_down() && self.webhook.is_served()).then_some(self.read_to)
    }

    /// Takes a page of the feed, of all types and users, that begins where [`Self::reads_after`] said.
    pub fn take_page(&mut self, page: &EventPage) {
        for event in page.events.iter().filter(|event| self.webhook.types.contains(event.kind)) {
            match self.retries.get_mut(&event.user) {
                // The retry reads it again when its turn comes.
                Some(retry) => retry.until = retry.until.max(event.position),
                None => {
                    self.open.insert(event.position);
                    self.waiting.push_back(event.clone());
                }
            }
        }
        self.unsaved.is_changed |= page.next > self.read_to;
        self.read_to = self.read_to.max(page.next);
    }

    /// The number of deliveries on their way.
    pub fn in_flight(&self) -> usize {
        self.busy.len() + self.resending.values().filter(|is_made| !**is_made).count()
    }

    /// The next step. A delivery is on its way from now on.
    pub fn next(&mut self, now: DateTime<Utc>) -> Step {
        if !self.webhook.is_served() {
            return Step::Wait;
        }
        if let Some(resend) = self.resends.pop_front() {
            self.resending.insert(resend.id, false);
            let (message, source) = (resend.message, Source::Resend(resend.id));
            return Step::Send(Box::new(Delivery { message, source }));
        }
        let is_due = |(key, retry): &(&OrderKey, &Retry)| retry.next_at <= now && !self.busy.contains(*key);
        let due = self.retries.iter().filter(is_due).min_by_key(|(_, retry)| retry.next_at);
        if let Some((key, retry)) = due {
            let Some(event) = retry.events.front() else {
                return Step::Read(RetryRead {
                    key: key.clone(),
                    after: retry.next.saturating_sub(1),
                    until: retry.until,
                });
            };
            self.busy.insert(key.clone());
            return Step::Send(Box::new(Delivery::of(event.clone())));
        }
        if self.is_down() {
            return Step::Wait;
        }
        let is_free = |event: &Event| !self.busy.contains(&event.user);
        match self.waiting.iter().position(is_free).and_then(|index| self.waiting.remove(index)) {
            Some(event) => {
                self.busy.insert(event.user.clone());
                Step::Send(Box::new(Delivery::of(event)))
            }
            None => Step::Wait,
        }
    }

    /// Takes the events of a [`Step::Read`]. A retry without events has ended.
    pub fn take_retry(&mut self, read: &RetryRead, events: Vec<Event>) {
        let Some(retry) = self.retries.get_mut(&read.key) else { return };
        match (events.last(), retry.until > read.until) {
            (Some(_), _) => retry.events = events.into(),
            // Further events came meanwhile.
            (None, true) => retry.next = read.until + 1,
            (None, false) => self.end_retry(&read.key),
        }
    }

    /// Whether the receiver accepts nothing at the moment.
    fn is_down(&self) -> bool {
        self.webhook.progress.failures >= DOWN_AFTER && !self.retries.is_empty()
    }

    /// Whether nothing can be sent now or soon: the feed was read up to `last`, and all retries wait for their times.
    pub fn is_idle(&self, last: Position, now: DateTime<Utc>) -> bool {
        if !self.webhook.is_served() {
            return self.in_flight() == 0;
        }
        let has_read =
            self.is_down() || self.retries.len() >= MAX_RETRIES || self.read_to >= last && self.waiting.is_empty();
        let waits = self.retries.values().all(|retry| retry.next_at > now);
        has_read && waits && self.in_flight() == 0 && self.resends.is_empty()
    }

    /// The number of retries.
    pub fn retries(&self) -> usize {
        self.retries.len()
    }
}

impl Delivery {
    fn of(event: Event) -> Self {
        Self { message: Message::from(&event), source: Source::Feed(event) }
    }

    fn user(&self) -> OrderKey {
        match &self.source {
            Source::Feed(event) => event.user.clone(),
            Source::Resend(_) => None,
        }
    }
}
