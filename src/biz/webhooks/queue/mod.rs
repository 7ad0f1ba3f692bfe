//! The deliveries of one webhook, in the memory of the process that has the lease. It decides what is sent next,
//! and reads and writes nothing.

mod intake;
mod outcome;
mod retries;
#[cfg(test)]
mod tests;
mod unsaved;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use self::retries::{Retries, Retry};
use super::{
    Webhook,
    delivery::{Attempt, Message, OrderKey, Resend, StoredRetry},
    schedule::probe_pause,
};
use crate::biz::{
    events::{Event, Position},
    values::ids::WebhookId,
};

/// Users whose next event is refused at which the webhook has failed. Each has some hundred bytes in memory, and a row.
pub const MAX_REFUSED: usize = 20_000;
/// Most retries: those, and those of users with many events. With as many, the feed is not read on until one ends.
const MAX_RETRIES: usize = MAX_REFUSED + 1_000;
/// Users whose events were given up at which the webhook as a whole has failed.
pub const MAX_FAILED_USERS: usize = 100;
/// Users with a failure since the last accepted event at which the receiver counts as down. Then retries are tried at
/// their times, and events of further users only as probes.
const DOWN_AFTER: usize = 8;

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
    retries: Retries,
    /// Deliveries beside the feed.
    resends: VecDeque<Resend>,
    /// The orders that have a delivery on its way, and its position.
    busy: BTreeMap<OrderKey, Position>,
    /// Deliveries beside the feed on their way, and those that are made and not saved.
    resending: BTreeMap<Uuid, bool>,
    /// The users with a failure since the last accepted event, up to [`DOWN_AFTER`]. One user whose events the receiver
    /// refuses says nothing about the others.
    failing: BTreeSet<OrderKey>,
    probes: Probes,
    /// Whether an event that waits goes before the retries that are due.
    prefers_waiting: bool,
    unsaved: Unsaved,
}

/// The probes of a receiver that is down: events of users without a retry, one at a time.
#[derive(Debug, Default)]
struct Probes {
    made: u32,
    /// When the next one may be sent; `None` for at once.
    next_at: Option<DateTime<Utc>>,
}

/// The changes that are not saved.
#[derive(Debug, Default)]
struct Unsaved {
    is_changed: bool,
    /// They are saved before the position of the webhook passes their events.
    retries: BTreeSet<OrderKey>,
    /// Retries that only became due earlier. They are saved last: a process that dies before tries them at their old
    /// times.
    hastened: BTreeSet<OrderKey>,
    accepted: VecDeque<Attempt>,
    failed: VecDeque<Attempt>,
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
        // An estimate from above, which a probe corrects.
        let failures = usize::try_from(webhook.progress.failures).unwrap_or(usize::MAX).min(DOWN_AFTER);
        let has_failed = |retry: &&StoredRetry| retry.attempts > 0 && retry.failed_at.is_none();
        let failing = retries.iter().filter(has_failed).take(failures).map(|retry| retry.key.clone()).collect();
        Self {
            webhook,
            read_to: position,
            waiting: VecDeque::new(),
            open: BTreeSet::new(),
            retries: retries.into_iter().map(|retry| Retry::of_stored(retry, position)).collect(),
            resends: VecDeque::new(),
            busy: BTreeMap::new(),
            resending: BTreeMap::new(),
            failing,
            probes: Probes::default(),
            prefers_waiting: false,
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
        let may_begin = !self.is_down() || self.is_probe_due(now);
        // A retry without an attempt has a user whose events were too many for the window. It is a probe, too.
        let due = self.retries.due(now, &self.busy, may_begin);
        let is_free = |event: &Event| !self.busy.contains_key(&event.user);
        let waiting = may_begin.then(|| self.waiting.iter().position(is_free)).flatten();
        // By turns, so that many retries of users whose events are refused hold no other user up.
        let due = due.filter(|_| waiting.is_none() || !self.prefers_waiting);
        if let Some((key, retry)) = due {
            let Some(event) = self.retries.first_event(key) else {
                return Step::Read(RetryRead {
                    key: key.clone(),
                    after: retry.next.saturating_sub(1),
                    until: retry.until,
                });
            };
            let (key, event, is_probe) = (key.clone(), event.clone(), retry.attempts == 0 && self.is_down());
            self.busy.insert(key, event.position);
            self.prefers_waiting = true;
            if is_probe {
                self.probes.begin(now);
            }
            return Step::Send(Box::new(Delivery::of(event)));
        }
        match waiting.and_then(|index| self.waiting.remove(index)) {
            Some(event) => {
                self.prefers_waiting = false;
                if self.is_down() {
                    self.probes.begin(now);
                }
                self.busy.insert(event.user.clone(), event.position);
                Step::Send(Box::new(Delivery::of(event)))
            }
            None => Step::Wait,
        }
    }

    /// Takes the events of a [`Step::Read`]. A retry without events has ended.
    pub fn take_retry(&mut self, read: &RetryRead, events: Vec<Event>) {
        let Some(retry) = self.retries.get(&read.key) else { return };
        match (events.last(), retry.until > read.until) {
            (Some(_), _) => self.retries.load(&read.key, events),
            // Further events came meanwhile.
            (None, true) => drop(self.retries.change(&read.key, |retry| retry.next = read.until + 1)),
            (None, false) => self.end_retry(&read.key),
        }
    }

    /// Whether the receiver accepts nothing at the moment.
    fn is_down(&self) -> bool {
        self.failing.len() >= DOWN_AFTER && !self.retries.is_empty()
    }

    fn is_probe_due(&self, now: DateTime<Utc>) -> bool {
        self.probes.next_at.is_none_or(|at| at <= now)
    }

    /// Whether nothing can be sent now or soon: the feed was read up to `last`, and all retries and probes wait for
    /// their times.
    pub fn is_idle(&self, last: Position, now: DateTime<Utc>) -> bool {
        if !self.webhook.is_served() {
            return self.in_flight() == 0;
        }
        let is_unprobed = self.is_down() && !self.is_probe_due(now);
        let has_read = is_unprobed || self.waiting.is_empty() && self.read_to >= last;
        let waits = !self.retries.is_any_due(now, !is_unprobed);
        has_read && waits && self.in_flight() == 0 && self.resends.is_empty()
    }

    /// The number of retries.
    pub fn retries(&self) -> usize {
        self.retries.len()
    }

    /// Users whose next event was refused, with those who were given up.
    pub fn refused_users(&self) -> usize {
        self.retries.refused()
    }
}

impl Probes {
    /// Notes a probe, and sets the time of the next one.
    fn begin(&mut self, now: DateTime<Utc>) {
        self.made = self.made.saturating_add(1);
        self.next_at = Some(now + probe_pause(self.made));
    }
}

impl Delivery {
    fn of(event: Event) -> Self {
        Self { message: Message::from(&event), source: Source::Feed(event) }
    }

    fn user(&self) -> OrderKey {
        match &self.source {
            Source::Feed(event) => event.user.clone(),
            Source::Resend(_) => self.message.user(),
        }
    }
}
