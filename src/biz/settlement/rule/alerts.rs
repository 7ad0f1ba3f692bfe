//! The alerts of a user.

use std::sync::Arc;

use super::Book;
use crate::biz::{
    settlement::{
        audit_events,
        posting::{AlertsChange, Outcome},
    },
    values::error::Error,
};

impl Book<'_> {
    /// Sets the alerts, from the next posting on. The levels of now fire nothing.
    pub(super) fn set_alerts(&mut self, request: &AlertsChange) -> Result<Outcome, Error> {
        if self.state.audit_events.contains(&request.call.id) {
            // As for a status.
            return Ok(Outcome::AlertsSet { changed: true });
        }
        let watch = self.state.watches.entry(request.user.clone()).or_default();
        if watch.alerts == request.alerts {
            return Ok(Outcome::AlertsSet { changed: false });
        }
        let before = std::mem::replace(&mut watch.alerts, request.alerts.as_ref().map(Arc::clone));
        self.state.audit_events.insert(request.call.id);
        self.audit_events.push(audit_events::of_alerts(request, before.as_deref(), self.batch.at.utc));
        self.changed.insert(request.user.clone());
        self.changed_watches.insert(request.user.clone());
        Ok(Outcome::AlertsSet { changed: true })
    }
}
