//! The deliveries of one webhook, in the memory of the process that has the lease. It decides what is sent next,
//! and reads and writes nothing.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    Failed, Progress, Webhook,
    delivery::{Attempt, Failure, KEPT_ATTEMPTS, Message, OrderKey, Outcome, Resend, StoredLane},
    schedule::next_attempt,
    store::SavedWebhook,
};
use crate::biz::{
    events::{Event, EventPage, Position},
    values::ids::WebhookId,
};

/// Events of the feed that wait in memory, at which no further ones are read.
const ENOUGH: usize = 100;
/// Most lanes. With as many, the feed is not read on until one ends.
const MAX_LANES: usize = 1_000;
/// Failures in a row after which the receiver counts as down. Then only lanes are tried, at their times.
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
    lanes: BTreeMap<OrderKey, Lane>,
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
    lanes: BTreeSet<OrderKey>,
    accepted: VecDeque<Attempt>,
    failed: VecDeque<Attempt>,
}

#[derive(Debug)]
struct Lane {
    /// As [`StoredLane::next`].
    next: Position,
    /// The last event of the lane is at this position or before it.
    until: Position,
    attempts: u32,
    first_at: Option<DateTime<Utc>>,
    next_at: DateTime<Utc>,
    /// The first events of the lane, as far as they were read.
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
    /// An event of the feed, from a lane or from the window.
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

/// Events to read for a lane.
#[derive(Debug, PartialEq, Eq)]
pub struct LaneRead {
    pub key: OrderKey,
    pub after: Position,
    pub until: Position,
}

/// The next step.
#[derive(Debug)]
pub enum Step {
    Send(Box<Delivery>),
    Read(LaneRead),
    /// Nothing can be done now.
    Wait,
}

impl Queue {
    /// The deliveries from the stored progress on.
    pub fn new(webhook: Webhook, lanes: Vec<StoredLane>) -> Self {
        let position = webhook.progress.position;
        let lane = |stored: StoredLane| {
            let StoredLane { key, next, attempts, first_at, next_at } = stored;
            // Events behind the stored position are read again, and then prolong the lane.
            let until = position.max(next);
            (key, Lane { next, until, attempts, first_at, next_at, events: VecDeque::new() })
        };
        Self {
            webhook,
            read_to: position,
            waiting: VecDeque::new(),
            open: BTreeSet::new(),
            lanes: lanes.into_iter().map(lane).collect(),
            resends: VecDeque::new(),
            busy: BTreeSet::new(),
            resending: BTreeMap::new(),
            unsaved: Unsaved::default(),
        }
    }

    pub fn id(&self) -> &WebhookId {
        &self.webhook.id
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
            for (key, lane) in &mut self.lanes {
                (lane.attempts, lane.first_at, lane.next_at) = (0, None, now);
                self.unsaved.lanes.insert(key.clone());
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
        let has_room = self.waiting.len() < ENOUGH && self.lanes.len() < MAX_LANES;
        (has_room && !self.is_down() && self.webhook.is_served()).then_some(self.read_to)
    }

    /// Takes a page of the feed, of all types and users, that begins where [`Self::reads_after`] said.
    pub fn take_page(&mut self, page: &EventPage) {
        for event in page.events.iter().filter(|event| self.webhook.types.contains(event.kind)) {
            match self.lanes.get_mut(&event.user) {
                // The lane reads it again when its turn comes.
                Some(lane) => lane.until = lane.until.max(event.position),
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
        let is_due = |(key, lane): &(&OrderKey, &Lane)| lane.next_at <= now && !self.busy.contains(*key);
        let due = self.lanes.iter().filter(is_due).min_by_key(|(_, lane)| lane.next_at);
        if let Some((key, lane)) = due {
            let Some(event) = lane.events.front() else {
                return Step::Read(LaneRead {
                    key: key.clone(),
                    after: lane.next.saturating_sub(1),
                    until: lane.until,
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

    /// Takes the events of a [`Step::Read`]. A lane without events has ended.
    pub fn take_lane(&mut self, read: &LaneRead, events: Vec<Event>) {
        let Some(lane) = self.lanes.get_mut(&read.key) else { return };
        match (events.last(), lane.until > read.until) {
            (Some(_), _) => lane.events = events.into(),
            // Further events came meanwhile.
            (None, true) => lane.next = read.until + 1,
            (None, false) => self.end_lane(&read.key),
        }
    }

    /// Notes the end of a delivery.
    pub fn done(&mut self, delivery: Delivery, outcome: Outcome, times: Times) {
        let was_down = self.is_down();
        self.unsaved.is_changed = true;
        let next_at = match &delivery.source {
            Source::Resend(id) => {
                self.resending.insert(*id, true);
                None
            }
            Source::Feed(event) => {
                self.busy.remove(&event.user);
                match outcome.failure {
                    None => self.accepted(event, was_down, times.now),
                    Some(failure) => self.refused(event, failure, times),
                }
            }
        };
        self.log(&delivery, outcome, times, next_at);
    }

    fn accepted(&mut self, event: &Event, was_down: bool, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let Progress { failures, failing_since, .. } = &mut self.webhook.progress;
        (*failures, *failing_since) = (0, None);
        self.open.remove(&event.position);
        if let Some(lane) = self.lanes.get_mut(&event.user) {
            lane.events.pop_front();
            // It stays due, and before the other lanes. So few lanes have their events in memory.
            (lane.next, lane.attempts, lane.first_at) = (event.position + 1, 0, None);
            self.unsaved.lanes.insert(event.user.clone());
            if lane.next > lane.until {
                self.end_lane(&event.user);
            }
        }
        if was_down {
            // The receiver is back, so nothing needs to wait for its time.
            for (key, lane) in &mut self.lanes {
                lane.next_at = lane.next_at.min(now);
                self.unsaved.lanes.insert(key.clone());
            }
        }
        None
    }

    /// Notes a failure. Returns when the event is tried again.
    fn refused(&mut self, event: &Event, failure: Failure, times: Times) -> Option<DateTime<Utc>> {
        let Times { began_at, now, .. } = times;
        let progress = &mut self.webhook.progress;
        progress.failures = progress.failures.saturating_add(1);
        progress.failing_since.get_or_insert(began_at);
        if !self.lanes.contains_key(&event.user) {
            self.begin_lane(event, began_at);
        }
        self.unsaved.lanes.insert(event.user.clone());
        let lane = self.lanes.get_mut(&event.user)?;
        lane.events.truncate(1);
        lane.attempts = lane.attempts.saturating_add(1);
        let next_at = next_attempt(lane.attempts, *lane.first_at.get_or_insert(began_at), now);
        lane.next_at = next_at.unwrap_or(now);
        let reason = match (failure, next_at) {
            (Failure::Gone, _) => "the receiver answered 410 Gone".to_owned(),
            (_, None) => format!("an event was not delivered in three days; last failure: {}", failure.name()),
            (_, Some(_)) => return next_at,
        };
        self.webhook.progress.failed = Some(Failed { at: now, reason });
        None
    }

    /// Begins a lane with an event that failed. The events behind it go to the lane.
    fn begin_lane(&mut self, event: &Event, began_at: DateTime<Utc>) {
        let mut until = event.position;
        self.open.remove(&event.position);
        let open = &mut self.open;
        self.waiting.retain(|other| {
            if other.user != event.user {
                return true;
            }
            open.remove(&other.position);
            until = until.max(other.position);
            false
        });
        let lane = Lane {
            next: event.position,
            until,
            attempts: 0,
            first_at: Some(began_at),
            next_at: began_at,
            events: VecDeque::from([event.clone()]),
        };
        self.lanes.insert(event.user.clone(), lane);
    }

    fn end_lane(&mut self, key: &OrderKey) {
        self.lanes.remove(key);
        self.unsaved.lanes.insert(key.clone());
        self.unsaved.is_changed = true;
    }

    fn log(&mut self, delivery: &Delivery, outcome: Outcome, times: Times, next_at: Option<DateTime<Utc>>) {
        let progress = &mut self.webhook.progress;
        progress.attempts += 1;
        let attempt = Attempt {
            webhook: self.webhook.id.clone(),
            number: progress.attempts,
            event: delivery.message.id,
            kind: delivery.message.kind.clone(),
            user: delivery.user(),
            began_at: times.began_at,
            took_ms: u32::try_from(times.took.as_millis()).unwrap_or(u32::MAX),
            outcome,
            next_at,
        };
        let log = if attempt.is_accepted() { &mut self.unsaved.accepted } else { &mut self.unsaved.failed };
        log.push_back(attempt);
        if log.len() > KEPT_ATTEMPTS as usize {
            log.pop_front();
        }
    }

    /// Whether the receiver accepts nothing at the moment.
    fn is_down(&self) -> bool {
        self.webhook.progress.failures >= DOWN_AFTER && !self.lanes.is_empty()
    }

    /// Whether nothing can be sent now or soon: the feed was read up to `last`, and all lanes wait for their times.
    pub fn is_idle(&self, last: Position, now: DateTime<Utc>) -> bool {
        if !self.webhook.is_served() {
            return self.in_flight() == 0;
        }
        let has_read =
            self.is_down() || self.lanes.len() >= MAX_LANES || self.read_to >= last && self.waiting.is_empty();
        let waits = self.lanes.values().all(|lane| lane.next_at > now);
        has_read && waits && self.in_flight() == 0 && self.resends.is_empty()
    }

    /// The number of lanes.
    pub fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// The number of attempts that are not saved.
    pub fn unsaved_attempts(&self) -> usize {
        self.unsaved.accepted.len() + self.unsaved.failed.len()
    }

    /// Whether there are changes since the last save.
    pub fn has_unsaved(&self) -> bool {
        self.unsaved.is_changed
    }

    /// The changes since the last save, if there are any.
    pub fn unsaved(&self) -> Option<SavedWebhook> {
        if !self.unsaved.is_changed {
            return None;
        }
        let stored = |key: &OrderKey| {
            let Lane { next, attempts, first_at, next_at, .. } = self.lanes.get(key)?;
            let (next, attempts, first_at, next_at) = (*next, *attempts, *first_at, *next_at);
            Some(StoredLane { key: key.clone(), next, attempts, first_at, next_at })
        };
        let mut log: Vec<Attempt> = self.unsaved.accepted.iter().chain(&self.unsaved.failed).cloned().collect();
        log.sort_unstable_by_key(|attempt| attempt.number);
        let Progress { attempts, failures, failing_since, failed, .. } = self.webhook.progress.clone();
        Some(SavedWebhook {
            id: self.webhook.id.clone(),
            restarts: self.webhook.restarts,
            position: self.position(),
            attempts,
            failures,
            failing_since,
            failed,
            lanes: self.unsaved.lanes.iter().filter_map(stored).collect(),
            ended: self.unsaved.lanes.iter().filter(|key| !self.lanes.contains_key(*key)).cloned().collect(),
            log,
            resent: self.resending.iter().filter(|(_, is_made)| **is_made).map(|(id, _)| *id).collect(),
        })
    }

    /// Notes that the changes of [`Self::unsaved`] are saved.
    pub fn saved(&mut self, saved: &SavedWebhook) {
        self.unsaved = Unsaved::default();
        for id in &saved.resent {
            self.resending.remove(id);
        }
        self.webhook.progress.position = saved.position;
    }

    /// All events up to it are delivered or in lanes.
    fn position(&self) -> Position {
        self.open.first().map_or(self.read_to, |first| first - 1)
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
