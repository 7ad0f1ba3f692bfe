//! The ends of deliveries: retries begin, go on and end.

use chrono::{DateTime, Utc};

use super::{DOWN_AFTER, Delivery, MAX_FAILED_USERS, MAX_REFUSED, Probes, Queue, Retry, Source, Times};
use crate::biz::{
    events::Event,
    webhooks::{
        Failed, Progress,
        delivery::{Attempt, Failure, KEPT_ATTEMPTS, OrderKey, Outcome},
        schedule::{next_attempt, probe_pause},
    },
};

impl Queue {
    /// Notes the end of a delivery.
    pub fn done(&mut self, delivery: Delivery, outcome: Outcome, times: Times) {
        let was_down = self.is_down();
        self.unsaved.is_changed = true;
        let next_at = match &delivery.source {
            Source::Resend(id) => {
                self.resending.insert(*id, true);
                if outcome.failure.is_none() {
                    self.answered(was_down, times.now);
                }
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
        self.open.remove(&event.position);
        self.retries.pop_event(&event.user, event.position);
        let following = self.retries.first_event(&event.user).map(|first| first.at);
        let is_done = self.retries.change(&event.user, |retry| {
            // It stays due, and before the other retries.
            (retry.next, retry.attempts, retry.first_at) = (event.position + 1, 0, None);
            (retry.hastened_at, retry.failed_at) = (None, None);
            if let Some(at) = following {
                // A user with events all the time is never done, and is not late for that.
                retry.next_at = retry.next_at.max(at).min(now);
            }
            retry.next > retry.until
        });
        if let Some(is_done) = is_done {
            self.unsaved.retries.insert(event.user.clone());
            self.retries.unload_if_many(&event.user);
            if is_done {
                self.end_retry(&event.user);
            }
        }
        self.answered(was_down, now);
        None
    }

    /// Notes that the receiver accepts events. If it was down, nothing needs to wait for its time.
    fn answered(&mut self, was_down: bool, now: DateTime<Utc>) {
        let Progress { failures, failing_since, .. } = &mut self.webhook.progress;
        (*failures, *failing_since) = (0, None);
        self.failing.clear();
        if was_down {
            self.unsaved.hastened.extend(self.retries.hasten(now));
        }
    }

    /// Notes a failure. Returns when the event is tried again.
    fn refused(&mut self, event: &Event, failure: Failure, times: Times) -> Option<DateTime<Utc>> {
        let Times { began_at, now, .. } = times;
        let progress = &mut self.webhook.progress;
        progress.failures = progress.failures.saturating_add(1);
        let since = *progress.failing_since.get_or_insert(began_at);
        if self.failing.len() < DOWN_AFTER && self.failing.insert(event.user.clone()) {
            // They count from the moment when the receiver is down.
            self.probes = Probes { made: 0, next_at: Some(now + probe_pause(0)) };
        }
        if failure != Failure::Gone && !self.webhook.types.contains(&event.kind) {
            self.pass(event, now);
            return None;
        }
        if self.retries.get(&event.user).is_none() {
            self.begin_retry(event, began_at);
        }
        self.unsaved.retries.insert(event.user.clone());
        self.open.remove(&event.position);
        // The event is read again at its time: in memory, those of many users would need much of it.
        self.retries.unload(&event.user);
        let (next_at, is_given_up) = self.retries.change(&event.user, |retry| {
            retry.next = event.position;
            retry.attempts = retry.attempts.saturating_add(1);
            let first_at = *retry.first_at.get_or_insert(began_at);
            let next_at = next_attempt(retry.attempts, first_at, now);
            retry.next_at = next_at.unwrap_or(now);
            // The receiver has accepted another event since the first attempt, so only this user has failed.
            let is_given_up = failure != Failure::Gone && next_at.is_none() && since > first_at;
            if is_given_up {
                retry.failed_at = Some(now);
            }
            (next_at, is_given_up)
        })?;
        let reason = match next_at {
            _ if failure == Failure::Gone => "the receiver answered 410 Gone".to_owned(),
            _ if self.retries.refused() >= MAX_REFUSED => {
                format!("the receiver refused events of {MAX_REFUSED} users; last failure: {}", failure.name())
            }
            Some(_) => return next_at,
            None if !is_given_up => format!("no event was accepted for three days; last failure: {}", failure.name()),
            None if self.failed_users() < MAX_FAILED_USERS => return None,
            None => format!("events of {MAX_FAILED_USERS} users were not accepted for three days each"),
        };
        self.fail(reason, now);
        None
    }

    /// Ends the webhook, until an operator activates it.
    pub fn fail(&mut self, reason: String, now: DateTime<Utc>) {
        self.webhook.progress.failed = Some(Failed { at: now, reason });
        self.unsaved.is_changed = true;
    }

    /// Goes on behind an event whose type was removed while it was on its way.
    fn pass(&mut self, event: &Event, now: DateTime<Utc>) {
        self.open.remove(&event.position);
        let is_done = self.retries.change(&event.user, |retry| {
            (retry.next, retry.attempts, retry.first_at, retry.next_at) = (event.position + 1, 0, None, now);
            retry.next > retry.until
        });
        let Some(is_done) = is_done else { return };
        self.retries.unload(&event.user);
        self.unsaved.retries.insert(event.user.clone());
        if is_done {
            self.end_retry(&event.user);
        }
    }

    /// Users whose events were given up. Each has a retry.
    pub fn failed_users(&self) -> usize {
        self.retries.failed()
    }

    /// Begins a retry with an event that failed. The events behind it go to the retry.
    fn begin_retry(&mut self, event: &Event, began_at: DateTime<Utc>) {
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
        let retry = Retry { first_at: Some(began_at), ..Retry::untried(event.position, until, began_at) };
        self.retries.insert(event.user.clone(), retry);
    }

    pub(super) fn end_retry(&mut self, key: &OrderKey) {
        self.retries.remove(key);
        self.unsaved.retries.insert(key.clone());
        self.unsaved.is_changed = true;
    }

    fn log(&mut self, delivery: &Delivery, outcome: Outcome, times: Times, next_at: Option<DateTime<Utc>>) {
        let progress = &mut self.webhook.progress;
        progress.attempts += 1;
        // Each outcome has a number of its own, so that it has all of its places.
        let of_outcome = match outcome.failure {
            None => {
                progress.accepted += 1;
                progress.accepted
            }
            Some(_) => progress.attempts - progress.accepted,
        };
        let attempt = Attempt {
            webhook: self.webhook.id.clone(),
            number: progress.attempts,
            slot: u32::try_from(of_outcome % u64::from(KEPT_ATTEMPTS)).unwrap_or_default(),
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
}
