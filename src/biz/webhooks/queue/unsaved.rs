//! The changes that are not saved. They are saved in parts.

use uuid::Uuid;

use super::{Queue, Unsaved};
use crate::biz::{
    events::Position,
    webhooks::{Progress, delivery::StoredRetry, store::SavedWebhook},
};

impl Queue {
    /// The number of attempts that are not saved.
    pub fn unsaved_attempts(&self) -> usize {
        self.unsaved.accepted.len() + self.unsaved.failed.len()
    }

    /// Whether there are changes that are not saved.
    pub fn has_unsaved(&self) -> bool {
        self.unsaved.is_changed
    }

    /// The next part of the changes that are not saved, if there are any: its rows take from `room`.
    ///
    /// The position stays while retries are left for a later part. So a process that dies between two parts repeats
    /// deliveries, and passes over none: a saved retry says nothing about events that its user has not got.
    pub fn unsaved(&self, room: &mut usize) -> Option<SavedWebhook> {
        if !self.unsaved.is_changed {
            return None;
        }
        let changed = &self.unsaved.retries;
        let part = taken(room, changed.len());
        let keys = || changed.iter().take(part);
        let mut resent: Vec<Uuid> = self.resending.iter().filter(|(_, is_made)| **is_made).map(|(id, _)| *id).collect();
        resent.truncate(taken(room, resent.len()));
        let Progress { position, attempts, accepted, failures, failing_since, failed } = self.webhook.progress.clone();
        Some(SavedWebhook {
            id: self.webhook.id.clone(),
            made_at: self.webhook.created_at,
            restarts: self.webhook.restarts,
            position: if part == changed.len() { self.position() } else { position },
            attempts,
            accepted,
            failures,
            failing_since,
            failed,
            retries: keys().filter_map(|key| Some(self.retries.get(key)?.stored(key))).collect(),
            ended: keys().filter(|key| self.retries.get(key).is_none()).cloned().collect(),
            log: Vec::new(),
            resent,
        })
    }

    /// Adds the last attempts to a part, as far as there is room.
    pub fn add_log(&self, saved: &mut SavedWebhook, room: &mut usize) {
        for log in [&self.unsaved.accepted, &self.unsaved.failed] {
            saved.log.extend(log.iter().take(taken(room, log.len())).cloned());
        }
        saved.log.sort_unstable_by_key(|attempt| attempt.number);
    }

    /// Adds retries that became due earlier, as far as there is room.
    pub fn add_hastened(&self, saved: &mut SavedWebhook, room: &mut usize) {
        let Unsaved { retries, hastened, .. } = &self.unsaved;
        let left = hastened.iter().filter(|key| !retries.contains(*key)).take(*room);
        let added: Vec<StoredRetry> = left.filter_map(|key| Some(self.retries.get(key)?.stored(key))).collect();
        *room -= added.len();
        saved.retries.extend(added);
    }

    /// Notes that the changes of [`Self::unsaved`] are saved. Nothing has changed since.
    pub fn saved(&mut self, saved: &SavedWebhook) {
        for key in saved.retries.iter().map(|retry| &retry.key).chain(&saved.ended) {
            self.unsaved.retries.remove(key);
            self.unsaved.hastened.remove(key);
        }
        let accepted = saved.log.iter().filter(|attempt| attempt.is_accepted()).count();
        self.unsaved.accepted.drain(..accepted);
        self.unsaved.failed.drain(..saved.log.len() - accepted);
        for id in &saved.resent {
            self.resending.remove(id);
        }
        self.webhook.progress.position = saved.position;
        let Unsaved { retries, hastened, accepted, failed, .. } = &self.unsaved;
        let is_saved = retries.is_empty() && hastened.is_empty() && accepted.is_empty() && failed.is_empty();
        self.unsaved.is_changed = !is_saved || self.resending.values().any(|is_made| *is_made);
    }

    /// All events up to it are delivered or in retries.
    fn position(&self) -> Position {
        self.open.first().map_or(self.read_to, |first| first - 1)
    }
}

/// Takes up to so many rows from `room`.
fn taken(room: &mut usize, most: usize) -> usize {
    let taken = most.min(*room);
    *room -= taken;
    taken
}
