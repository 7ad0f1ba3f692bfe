//! A queue between a feed and a receiver that a test plays, with crashes.

mod changes;
mod down;
mod ends;
mod order;
mod saves;

use std::collections::BTreeMap;

use chrono::TimeDelta;
use uuid::Uuid;

use super::*;
use crate::biz::{
    events::{EventPage, EventType},
    values::ids::UserId,
    webhooks::{
        Progress, Types, WebhookState,
        delivery::{Failure, Outcome},
        schedule::TRIED_FOR,
        store::SavedWebhook,
    },
};

fn event(position: Position, user: &str) -> Event {
    Event {
        position,
        id: Uuid::from_u128(position.into()),
        kind: EventType::AccountStatus.name().into(),
        user: Some(user).filter(|user| !user.is_empty()).map(UserId::from_stored),
        data: "{}".into(),
        at: DateTime::UNIX_EPOCH,
    }
}

/// A feed, a database and a receiver.
struct World {
    feed: Vec<Event>,
    /// The stored webhook and its retries.
    stored: Webhook,
    retries: BTreeMap<OrderKey, StoredRetry>,
    queue: Queue,
    on_way: Vec<Delivery>,
    accepted: Vec<Position>,
    now: DateTime<Utc>,
}

impl World {
    fn new(users: &[&str]) -> Self {
        let feed = users.iter().enumerate().map(|(index, user)| event(index as u64 + 1, user)).collect();
        let queue = Queue::new(Webhook::example(), Vec::new());
        Self {
            feed,
            stored: Webhook::example(),
            retries: BTreeMap::new(),
            queue,
            on_way: Vec::new(),
            accepted: Vec::new(),
            now: DateTime::UNIX_EPOCH,
        }
    }

    fn last(&self) -> Position {
        self.feed.len() as u64
    }

    /// Reads a page of `size` events, if there is room.
    fn read(&mut self, size: usize) {
        let Some(after) = self.queue.reads_after() else { return };
        let events: Vec<_> = self.feed.iter().skip(after as usize).take(size).cloned().collect();
        let next = after + events.len() as u64;
        self.queue.take_page(&EventPage { events, next, has_more: next < self.last(), is_beyond: false });
    }

    /// Starts the deliveries for which there is room.
    fn start(&mut self) {
        while self.queue.in_flight() < 3 {
            match self.queue.next(self.now) {
                Step::Send(delivery) => self.on_way.push(*delivery),
                Step::Read(read) => {
                    let of_retry = |event: &&Event| {
                        event.user == read.key && event.position > read.after && event.position <= read.until
                    };
                    let events = self.feed.iter().filter(of_retry).take(2).cloned().collect();
                    self.queue.take_retry(&read, events);
                }
                Step::Wait => return,
            }
        }
    }

    /// Ends one of the deliveries on their way.
    fn end(&mut self, which: usize, failure: Option<Failure>) -> Option<Position> {
        if self.on_way.is_empty() {
            return None;
        }
        let delivery = self.on_way.remove(which % self.on_way.len());
        let position = delivery.message.id.as_u128() as Position;
        if failure.is_none() {
            self.accepted.push(position);
        }
        let times = Times { began_at: self.now, took: Duration::ZERO, now: self.now };
        self.queue.done(delivery, Outcome { status: None, failure }, times);
        Some(position)
    }

    fn save(&mut self) {
        while self.queue.has_unsaved() {
            self.save_part(1_000);
        }
    }

    /// Saves at most `room` rows.
    fn save_part(&mut self, mut room: usize) {
        let most = room;
        let Some(mut saved) = self.queue.unsaved(&mut room) else { return };
        self.queue.add_log(&mut saved, &mut room);
        self.queue.add_hastened(&mut saved, &mut room);
        assert_eq!(saved.retries.len() + saved.ended.len() + saved.log.len() + saved.resent.len() + room, most);
        let SavedWebhook { position, attempts, accepted, failures, failing_since, failed, retries, ended, .. } =
            saved.clone();
        self.stored.progress = Progress { position, attempts, accepted, failures, failing_since, failed };
        self.retries.extend(retries.into_iter().map(|retry| (retry.key.clone(), retry)));
        self.retries.retain(|key, _| !ended.contains(key));
        self.queue.saved(&saved);
    }

    /// Loses all that is in memory. What is on its way arrives or not.
    fn crash(&mut self, arrives: bool) {
        for delivery in self.on_way.drain(..) {
            if arrives {
                self.accepted.push(delivery.message.id.as_u128() as Position);
            }
        }
        self.queue = Queue::new(self.stored.clone(), self.retries.values().cloned().collect());
    }

    /// An operator restarts the webhook.
    fn restart(&mut self) {
        let restarts = self.queue.webhook.restarts + 1;
        self.stored.restarts = restarts;
        let progress = Progress { failed: None, ..self.queue.webhook.progress.clone() };
        self.queue.renew(Webhook { restarts, progress, ..self.queue.webhook.clone() }, self.now);
    }

    /// Delivers all that is left to a receiver that accepts it.
    fn finish(&mut self) {
        for _ in 0..1_000 {
            // All that can be sent at this time.
            loop {
                self.read(5);
                self.start();
                if self.end(0, None).is_none() {
                    break;
                }
            }
            if self.queue.is_idle(self.last(), self.now) && self.queue.retries() == 0 {
                return;
            }
            self.now += TimeDelta::hours(7);
        }
        panic!("the queue is stuck: {:?}", self.queue);
    }

    /// Each event is accepted, and none of a user before an earlier one of the same user.
    fn check(&self) {
        let mut seen = std::collections::BTreeSet::new();
        for position in &self.accepted {
            let event = &self.feed[*position as usize - 1];
            let earlier = self.feed[..*position as usize - 1].iter().filter(|other| other.user == event.user);
            for other in earlier {
                assert!(
                    seen.contains(&other.position),
                    "{position} came before {}: {:?}",
                    other.position,
                    self.accepted
                );
            }
            seen.insert(*position);
        }
        assert_eq!(seen.len(), self.feed.len(), "{:?}", self.accepted);
    }
}
