//! The status of an account.

use serde_json::json;

use super::Book;
use crate::biz::{
    events::EventType,
    settlement::{
        audit_events,
        posting::{Outcome, StatusChange},
    },
    values::{error::Error, ids::UserId},
};

impl Book<'_> {
    /// Sets the status. The status that the account has already changes nothing.
    pub(super) fn set_status(&mut self, request: &StatusChange) -> Result<Outcome, Error> {
        if self.state.audit_events.contains(&request.call.id) {
            // An earlier attempt of this request committed, and its answer was lost. Other requests
            // may have changed the status since.
            return Ok(Outcome::StatusSet { changed: true });
        }
        let balance = self
            .state
            .balances
            .get_mut(&request.user)
            .ok_or_else(|| Error::Internal(format!("the balance of {} was not loaded", request.user)))?;
        if balance.status == request.status {
            return Ok(Outcome::StatusSet { changed: false });
        }
        let before = std::mem::replace(&mut balance.status, request.status);
        self.state.audit_events.insert(request.call.id);
        self.audit_events.push(audit_events::of_status(request, before, self.batch.at.utc));
        let data = json!({"before": before.name(), "after": request.status.name()});
        self.note_event(EventType::AccountStatus, &request.user, data);
        self.changed.insert(request.user.clone());
        self.changed_statuses.insert(request.user.clone());
        Ok(Outcome::StatusSet { changed: true })
    }

    /// Checks that the account takes new calls. An account that was not loaded is no matter of this
    /// check.
    pub(super) fn check_status(&self, user: &UserId) -> Result<(), Error> {
        self.state.balances.get(user).map_or(Ok(()), |balance| balance.check_status())
    }
}
