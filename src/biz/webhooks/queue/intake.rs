//! The input of a queue: changes by operators, events of the feed, and deliveries beside it.

use std::collections::VecDeque;

use chrono::{DateTime, Utc};

use super::{MAX_RETRIES, Queue, Retry};
use crate::biz::{
    events::{Event, EventPage, Position},
    webhooks::{
        Progress, Webhook,
        delivery::{OrderKey, Resend},
    },
};

/// Events of the feed that wait in memory, at which no further ones are read.
const ENOUGH: usize = 100;
/// Events of one user that wait in memory. With further ones they become a retry that is due at once, so that one user
/// leaves room for the others.
const OF_USER: usize = 10;

impl Queue {
    /// Takes a webhook as it is stored now. The progress is that of this process, unless an operator has
    /// restarted the webhook.
    pub fn renew(&mut self, stored: Webhook, now: DateTime<Utc>) {
        let is_restarted = stored.restarts != self.webhook.restarts;
        let stored_end = stored.progress.failed.clone();
        let progress = std::mem::take(&mut self.webhook.progress);
        let is_retyped = stored.types != self.webhook.types;
        self.webhook = Webhook { progress, ..stored };
        if is_retyped {
            self.apply_types();
        }
        if is_restarted {
            let Progress { failures, failing_since, failed, .. } = &mut self.webhook.progress;
            (*failures, *failing_since, *failed) = (0, None, stored_end);
            self.failing.clear();
            let keys: Vec<OrderKey> = self.retries.keys().cloned().collect();
            for key in keys {
                self.retries.change(&key, |retry| {
                    (retry.attempts, retry.first_at, retry.next_at, retry.failed_at) = (0, None, now, None);
                });
                // Their attempts were set anew by the restart itself.
                self.unsaved.hastened.insert(key);
            }
            self.unsaved.is_changed = true;
        }
    }

    /// Leaves out events of types that the webhook no longer gets. Those on their way still end.
    fn apply_types(&mut self) {
        let (types, open) = (&self.webhook.types, &mut self.open);
        self.waiting.retain(|event| {
            let is_wanted = types.contains(&event.kind);
            if !is_wanted {
                open.remove(&event.position);
            }
            is_wanted
        });
        // They are read again by their types.
        self.retries.unload_all_but(&self.busy);
        self.unsaved.is_changed = true;
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
        // A receiver that is down needs an event for the next probe.
        let is_wanted = !self.is_down() || self.waiting.is_empty();
        (has_room && is_wanted && self.webhook.is_served()).then_some(self.read_to)
    }

    /// Takes a page of the feed, of all types and users, that begins where [`Self::reads_after`] said.
    pub fn take_page(&mut self, page: &EventPage) {
        for event in &page.events {
            if !self.webhook.types.contains(&event.kind) {
                continue;
            }
            // The retry reads it again when its turn comes.
            if self.retries.prolong(&event.user, event.position) {
                continue;
            }
            self.open.insert(event.position);
            self.waiting.push_back(event.clone());
            let of_user = self.waiting.iter().filter(|other| other.user == event.user).count();
            if of_user > OF_USER {
                self.move_to_retry(&event.user);
            }
        }
        self.unsaved.is_changed |= page.next > self.read_to;
        self.read_to = self.read_to.max(page.next);
    }

    /// Moves the events of a user that wait to a retry that is due at once. It begins with an event on its way, which
    /// may get no answer.
    fn move_to_retry(&mut self, user: &OrderKey) {
        let waiting = std::mem::take(&mut self.waiting).into_iter();
        let (moved, left): (VecDeque<Event>, VecDeque<Event>) = waiting.partition(|event| event.user == *user);
        self.waiting = left;
        let (Some(first), Some(last)) = (moved.front(), moved.back()) else { return };
        let next = self.busy.get(user).copied().unwrap_or(first.position);
        let (until, next_at) = (last.position, first.at);
        for event in &moved {
            self.open.remove(&event.position);
        }
        // Its events are read when its turn comes: in memory, those of many retries would need much of it.
        let retry = Retry::untried(next, until, next_at);
        self.retries.insert(user.clone(), retry);
        self.unsaved.retries.insert(user.clone());
    }
}
