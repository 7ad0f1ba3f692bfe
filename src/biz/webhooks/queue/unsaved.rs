//! The changes since the last save.

use super::{Queue, Unsaved};
use crate::biz::{
    events::Position,
    webhooks::{
        Progress,
        delivery::{Attempt, OrderKey, StoredRetry},
        store::SavedWebhook,
    },
};

impl Queue {
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
        let stored = |key: &OrderKey| -> Option<StoredRetry> { Some(self.retries.get(key)?.stored(key)) };
        let mut log: Vec<Attempt> = self.unsaved.accepted.iter().chain(&self.unsaved.failed).cloned().collect();
        log.sort_unstable_by_key(|attempt| attempt.number);
        let Progress { attempts, accepted, failures, failing_since, failed, .. } = self.webhook.progress.clone();
        Some(SavedWebhook {
            id: self.webhook.id.clone(),
            made_at: self.webhook.created_at,
            restarts: self.webhook.restarts,
            position: self.position(),
            attempts,
            accepted,
            failures,
            failing_since,
            failed,
            retries: self.unsaved.retries.iter().filter_map(stored).collect(),
            ended: self.unsaved.retries.iter().filter(|key| self.retries.get(key).is_none()).cloned().collect(),
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

    /// All events up to it are delivered or in retries.
    fn position(&self) -> Position {
        self.open.first().map_or(self.read_to, |first| first - 1)
    }
}
