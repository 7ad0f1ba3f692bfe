//! The rpcs of webhooks.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use uuid::Uuid;

use super::{
    convert::int32,
    origin::Origin,
    proto::{
        self, DeleteWebhookReply, DeleteWebhookRequest, ListWebhookDeliveriesReply, ListWebhookDeliveriesRequest,
        ListWebhooksReply, ListWebhooksRequest, PutWebhookReply, PutWebhookRequest, RedeliverWebhookReply,
        RedeliverWebhookRequest, TestWebhookReply, TestWebhookRequest, WebhookDelivery,
    },
    timestamp::{Timestamp, instant},
};
use crate::{
    biz::{
        audit_trail::{Actor, AuditedCall, DELETE_WEBHOOK, PUT_WEBHOOK, REDELIVER_WEBHOOK, TEST_WEBHOOK},
        events::{EventType, Position, reader::FeedReader},
        values::{
            calendar::Calendar,
            error::{Error, Result},
            ids::WebhookId,
            invalid::Invalid,
        },
        webhooks::{
            TEST_TYPE, Types, Webhook,
            changes::{EXPECTED_UPDATED_AT, Expected, MUST_BE_NEW, PutWebhook, no_webhook},
            delivery::{Attempt, KEPT_ATTEMPTS, Message, Resend, TraceContext},
            secret::{DEFAULT_OVERLAP, MAX_OVERLAP_HOURS, SecretVault, VaultError},
            store::{Put, WebhookStore},
            url::WebhookUrl,
        },
    },
    context,
};

const DEFAULT_LIMIT: u32 = 50;
/// Most deliveries of a list: those that are kept.
pub(super) const MAX_LIMIT: u32 = 2 * KEPT_ATTEMPTS;
/// The outcomes that a list can be limited to.
pub(super) const OUTCOMES: [&str; 2] = ["accepted", "failed"];
/// Characters of a UUID.
pub(super) const MAX_EVENT_ID: usize = 36;
/// Longest `traceparent` of the version that this service knows.
const MAX_TRACEPARENT: usize = 55;
/// Longest `tracestate` that goes on. W3C Trace Context asks for so much.
const MAX_TRACESTATE: usize = 512;

/// The time in which the events before a new webhook must get their positions.
const PLACE_TIME: Duration = Duration::from_secs(5);

/// The role that reads and changes nothing.
const SUPPORT: &str = "support";

/// Changes and lists webhooks.
pub struct WebhookService {
    pub store: Arc<dyn WebhookStore>,
    pub feed: Arc<FeedReader>,
    /// `None` without `billing.webhooks.key`.
    pub vault: Option<Arc<dyn SecretVault>>,
    pub is_private_allowed: bool,
    pub calendar: Arc<Calendar>,
}

impl WebhookService {
    pub async fn put_webhook(&self, request: PutWebhookRequest, actor: Actor) -> Result<PutWebhookReply> {
        let id = WebhookId::parse("webhook_id", &request.webhook_id)?;
        // A change of anything else need not repeat them.
        let has_target = !request.url.is_empty() || !request.types.is_empty();
        let target = match has_target {
            true => Some((WebhookUrl::parse(&request.url, self.is_private_allowed)?, types(&request.types)?)),
            false => None,
        };
        let rotation = rotation(request.rotate_secret, request.overlap_hours)?;
        let expected = match (expected(request.expected_updated_at)?, request.must_be_new) {
            (expected, false) => expected,
            (Expected::Any, true) => Expected::New,
            (_, true) => return Err(Invalid::new(MUST_BE_NEW, "does not go with expected_updated_at").into()),
        };
        let vault = self.vault.as_ref().ok_or_else(|| {
            Invalid::new("webhook_id", "webhooks need billing.webhooks.key_file in the configuration of this server")
        })?;
        let fresh = vault.fresh().map_err(unsealed)?;
        let sealed = vault.seal(&id, &fresh).map_err(unsealed)?;
        let put = PutWebhook { id, expected, target, is_active: request.active, rotation, fresh: sealed };
        let stored = self.store.webhooks().await?.webhooks;
        // A new webhook begins behind the events that are committed now.
        if !stored.iter().any(|webhook| webhook.id == put.id) && !self.feed.place_all(PLACE_TIME).await? {
            let why = "many events wait for their first reader; call again, the service goes on from here";
            return Err(Error::Overloaded(why.into()));
        }
        let call = AuditedCall::new(PUT_WEBHOOK, actor, "");
        // As precise as the databases keep it.
        let now = self.calendar.now().utc.trunc_subsecs(6);
        let Put { webhook, changed, uses_fresh } = self.store.put_webhook(&put, &call, now).await??;
        let secret = if uses_fresh { fresh.reveal() } else { String::new() };
        Ok(PutWebhookReply { success: true, changed, webhook: Some(shown(&webhook, None, now)), secret })
    }

    pub async fn list_webhooks(&self, _: ListWebhooksRequest, actor: Actor) -> Result<ListWebhooksReply> {
        let (stored, now) = (self.store.webhooks().await?, self.calendar.now().utc);
        let last = stored.last + self.store.unplaced().await?.events;
        let failed = self.store.failed_users().await?;
        let sums = match stored.webhooks.is_empty() {
            true => Vec::new(),
            false => self.store.retry_sums().await?,
        };
        let failed_users =
            |id: &WebhookId| failed.iter().find(|(webhook, _)| webhook == id).map_or(0, |(_, users)| int32(*users));
        let held_back_users =
            |id: &WebhookId| sums.iter().find(|sum| sum.webhook == *id).map_or(0, |sum| int32(sum.retries));
        let shown = |webhook: &Webhook| proto::Webhook {
            url: url_for(&actor.role, &webhook.url),
            failed_users: failed_users(&webhook.id),
            held_back_users: held_back_users(&webhook.id),
            ..shown(webhook, Some(last), now)
        };
        Ok(ListWebhooksReply { webhooks: stored.webhooks.iter().map(shown).collect() })
    }

    pub async fn delete_webhook(&self, request: DeleteWebhookRequest, actor: Actor) -> Result<DeleteWebhookReply> {
        let id = WebhookId::parse("webhook_id", &request.webhook_id)?;
        let expected = expected(request.expected_updated_at)?;
        let call = AuditedCall::new(DELETE_WEBHOOK, actor, "");
        let changed = self.store.delete_webhook((&id, expected), &call, self.calendar.now().utc).await??;
        Ok(DeleteWebhookReply { success: true, changed })
    }

    pub async fn list_webhook_deliveries(
        &self,
        request: ListWebhookDeliveriesRequest,
    ) -> Result<ListWebhookDeliveriesReply> {
        let id = WebhookId::parse("webhook_id", &request.webhook_id)?;
        let is_accepted = match request.outcome.as_str() {
            "" => None,
            "accepted" => Some(true),
            "failed" => Some(false),
            _ => return Err(Invalid::new("outcome", format!("must be {}", OUTCOMES.join(" or "))).into()),
        };
        let limit = match u32::try_from(request.limit) {
            Ok(0) => DEFAULT_LIMIT,
            Ok(limit) if limit <= MAX_LIMIT => limit,
            _ => return Err(Invalid::new("limit", format!("must be 1 to {MAX_LIMIT}")).into()),
        };
        let attempts = self.store.attempts(&id, is_accepted, limit).await?;
        let has_id = |webhook: &Webhook| webhook.id == id;
        if attempts.is_empty() && !self.store.webhooks().await?.webhooks.iter().any(has_id) {
            return Err(no_webhook().into());
        }
        Ok(ListWebhookDeliveriesReply { deliveries: attempts.iter().map(delivery).collect() })
    }

    pub async fn redeliver_webhook(
        &self,
        request: RedeliverWebhookRequest,
        origin: Origin,
        actor: Actor,
    ) -> Result<RedeliverWebhookReply> {
        let id = WebhookId::parse("webhook_id", &request.webhook_id)?;
        let (call, now) = (AuditedCall::new(REDELIVER_WEBHOOK, actor, ""), self.calendar.now().utc);
        if request.event_id.is_empty() {
            return match self.store.restart_webhook(&id, &call, now).await? {
                true => Ok(RedeliverWebhookReply { success: true }),
                false => Err(no_webhook().into()),
            };
        }
        let event: Uuid =
            request.event_id.parse().map_err(|_| Invalid::new("event_id", "is not the id of an event"))?;
        let event = self.store.event_by_id(event).await?;
        let event = event.ok_or_else(|| Invalid::new("event_id", "is the id of no event that is kept"))?;
        let message = Message { trace: trace(origin), ..Message::from(&event) };
        self.resend(id, message, &call, now).await?;
        Ok(RedeliverWebhookReply { success: true })
    }

    pub async fn test_webhook(
        &self,
        request: TestWebhookRequest,
        origin: Origin,
        actor: Actor,
    ) -> Result<TestWebhookReply> {
        let id = WebhookId::parse("webhook_id", &request.webhook_id)?;
        let (call, now) = (AuditedCall::new(TEST_WEBHOOK, actor, ""), self.calendar.now().utc);
        let event = Uuid::now_v7();
        let data = serde_json::json!({"webhook_id": id.as_str()}).to_string();
        let message = Message { id: event, kind: TEST_TYPE.into(), at: now, data, trace: trace(origin) };
        self.resend(id, message, &call, now).await?;
        Ok(TestWebhookReply { success: true, event_id: event.to_string() })
    }

    async fn resend(&self, webhook: WebhookId, message: Message, call: &AuditedCall, now: DateTime<Utc>) -> Result<()> {
        let resend = Resend { id: Uuid::now_v7(), webhook, message };
        Ok(self.store.add_resend(&resend, call, now).await??)
    }
}

/// The URL as a role may see it. Its path and its query may have a secret of the receiver.
fn url_for(role: &str, url: &WebhookUrl) -> String {
    match role {
        SUPPORT => url.origin(),
        _ => url.as_str().to_owned(),
    }
}

fn unsealed(error: VaultError) -> Error {
    Error::Internal(error.to_string())
}

fn types(names: &[String]) -> Result<Types> {
    if names.len() > EventType::ALL.len() {
        return Err(Invalid::new("types", format!("must be at most {}", EventType::ALL.len())).into());
    }
    let types = names.iter().map(|name| name.parse()).collect::<std::result::Result<Vec<EventType>, _>>()?;
    Ok(Types::of(types))
}

/// The state that the caller has seen.
fn expected(updated_at: Option<Timestamp>) -> Result<Expected> {
    let at = updated_at.map(|at| instant(EXPECTED_UPDATED_AT, at)).transpose()?;
    Ok(at.map_or(Expected::Any, Expected::ChangedAt))
}

/// The time for which the replaced secret stays valid.
fn rotation(is_wanted: bool, hours: Option<i32>) -> Result<Option<TimeDelta>> {
    let bad = |why: String| Err(Invalid::new("overlap_hours", why).into());
    match (is_wanted, hours.map(u32::try_from)) {
        (false, None) => Ok(None),
        (false, Some(_)) => bad("is for rotate_secret".into()),
        (true, None) => Ok(Some(DEFAULT_OVERLAP)),
        (true, Some(Ok(hours))) if hours <= MAX_OVERLAP_HOURS => Ok(Some(TimeDelta::hours(hours.into()))),
        (true, Some(_)) => bad(format!("must be 0 to {MAX_OVERLAP_HOURS}")),
    }
}

/// The trace of the call, or that of its caller.
fn trace(origin: Origin) -> Option<TraceContext> {
    let (parent, state) = match context::outgoing() {
        Some(outgoing) => (outgoing.parent.to_string(), outgoing.state),
        None => (origin.trace.parent?, origin.trace.state),
    };
    let state = state.filter(|state| state.len() <= MAX_TRACESTATE);
    (parent.len() <= MAX_TRACEPARENT).then_some(TraceContext { parent, state })
}

/// A webhook for operators, without its secrets. `last` is the position of the last event.
fn shown(webhook: &Webhook, last: Option<Position>, now: DateTime<Utc>) -> proto::Webhook {
    let progress = &webhook.progress;
    let behind = last.map_or(0, |last| last.saturating_sub(progress.position));
    let replaced = webhook.secrets.iter().filter(|secret| secret.is_valid(now)).filter_map(|secret| secret.until);
    proto::Webhook {
        webhook_id: webhook.id.to_string(),
        url: webhook.url.as_str().to_owned(),
        types: webhook.types.names().into_iter().map(str::to_owned).collect(),
        active: webhook.is_active,
        state: webhook.state().name().to_owned(),
        failing_since: progress.failing_since.map(Into::into),
        failures: int32(progress.failures),
        failed_at: progress.failed.as_ref().map(|failed| failed.at.into()),
        reason: progress.failed.as_ref().map(|failed| failed.reason.clone()).unwrap_or_default(),
        behind: i64::try_from(behind).unwrap_or(i64::MAX),
        replaced_secret_until: replaced.max().map(Into::into),
        created_at: Some(webhook.created_at.into()),
        updated_at: Some(webhook.updated_at.into()),
        failed_users: 0,
        held_back_users: 0,
    }
}

fn delivery(attempt: &Attempt) -> WebhookDelivery {
    WebhookDelivery {
        event_id: attempt.event.to_string(),
        r#type: attempt.kind.to_string(),
        user_id: attempt.user.as_ref().map(ToString::to_string).unwrap_or_default(),
        began_at: Some(attempt.began_at.into()),
        took_ms: int32(attempt.took_ms),
        accepted: attempt.is_accepted(),
        status: attempt.outcome.status.map_or(0, i32::from),
        failure: attempt.outcome.failure.map(|failure| failure.name().to_owned()).unwrap_or_default(),
        next_at: attempt.next_at.map(Into::into),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn support_sees_the_host_of_a_url_only() {
        let url = WebhookUrl::from_stored("https://a.example/path?token=t");
        assert_eq!(url_for("support", &url), "https://a.example");
        for role in ["admin", "none"] {
            assert_eq!(url_for(role, &url), url.as_str());
        }
    }

    #[test]
    fn the_overlap_is_a_day_unless_it_is_given() {
        assert_eq!(rotation(false, None).unwrap(), None);
        assert_eq!(rotation(true, None).unwrap(), Some(TimeDelta::hours(24)));
        assert_eq!(rotation(true, Some(0)).unwrap(), Some(TimeDelta::zero()));
        assert_eq!(rotation(true, Some(720)).unwrap(), Some(TimeDelta::days(30)));
        for (is_wanted, hours) in [(false, 1), (true, -1), (true, 721)] {
            assert!(rotation(is_wanted, Some(hours)).is_err());
        }
    }
}
