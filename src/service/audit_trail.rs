//! ListAuditEvents: the calls that changed an account, a limit or a quota.

use std::sync::Arc;

use uuid::Uuid;

use super::{
    convert::optional_span,
    proto::{self, ListAuditEventsReply, ListAuditEventsRequest},
    reports::paging::Page,
};
use crate::biz::{
    audit_trail::{AUDITED_RPCS, Actor, AuditEvent, AuditFilter, AuditTrail},
    values::{calendar::Calendar, error::Result, ids::UserId, invalid::Invalid, paging::PageStart},
};

/// Lists events.
pub struct AuditTrailService {
    trail: Arc<dyn AuditTrail>,
    calendar: Arc<Calendar>,
}

impl AuditTrailService {
    pub fn new(trail: Arc<dyn AuditTrail>, calendar: Arc<Calendar>) -> Self {
        Self { trail, calendar }
    }

    pub async fn list_audit_events(&self, request: ListAuditEventsRequest) -> Result<ListAuditEventsReply> {
        let page = Page::parse(0, request.page_size, &request.page_token)?;
        let days = optional_span(&request.from, &request.to, self.calendar.now().day)?;
        let filter = AuditFilter {
            user: UserId::parse_optional("user_id", &request.user_id)?,
            rpc: rpc(&request.rpc)?,
            caller: caller(request.caller)?,
            between: days.map(|days| self.calendar.bounds(days)),
        };
        let after = match &page.start {
            PageStart::After(cursor) => Some(cursor),
            PageStart::Offset(_) => None,
        };
        // The additional event shows whether another page follows.
        let events = self.trail.audit_events(&filter, after, page.size + 1).await?;
        let ids: Vec<(String, AuditEvent)> = events.into_iter().map(|event| (event.id.to_string(), event)).collect();
        let (events, next_page_token) = page.cut(&ids, |(id, event)| (event.at, id));
        Ok(ListAuditEventsReply { events: events.iter().map(|(_, event)| reply(event)).collect(), next_page_token })
    }

    /// The event with an id, for the result of a call.
    ///
    /// # Errors
    /// The errors of a read.
    pub async fn audit_event(&self, id: Uuid) -> Result<Option<proto::AuditEvent>> {
        Ok(self.trail.audit_event(id).await?.as_ref().map(reply))
    }
}

fn rpc(name: &str) -> Result<Option<&'static str>> {
    if name.is_empty() {
        return Ok(None);
    }
    let known = AUDITED_RPCS.into_iter().find(|rpc| *rpc == name);
    let why = || Invalid::new("rpc", format!("leaves no events; these do: {}", AUDITED_RPCS.join(", ")));
    known.map(Some).ok_or_else(|| why().into())
}

fn caller(name: String) -> Result<Option<String>> {
    if name.chars().count() > Actor::MAX_CALLER {
        return Err(Invalid::new("caller", format!("must be at most {} characters", Actor::MAX_CALLER)).into());
    }
    Ok(Some(name).filter(|name| !name.is_empty()))
}

fn reply(event: &AuditEvent) -> proto::AuditEvent {
    proto::AuditEvent {
        id: event.id.to_string(),
        created_at: Some(event.at.into()),
        caller: event.actor.caller.to_string(),
        role: event.actor.role.to_string(),
        request_id: event.actor.request_id.to_string(),
        rpc: event.rpc.to_string(),
        user_id: event.user.as_ref().map(UserId::to_string).unwrap_or_default(),
        before: event.before.clone().unwrap_or_default(),
        after: event.after.clone().unwrap_or_default(),
        reason: event.reason.clone(),
    }
}
