//! The rule of a change of a webhook by an operator.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};

use super::{
    MAX_WEBHOOKS, Progress, Types, Webhook,
    delivery::Resend,
    secret::{MAX_SECRETS, SealedSecret},
    url::WebhookUrl,
};
use crate::biz::{
    audit_trail::{AuditEvent, AuditedCall},
    values::{ids::WebhookId, invalid::Invalid},
};

/// The state of a webhook that an operator has seen. A change of another state is refused under the lock of the webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    Any,
    /// There is none.
    New,
    /// Its last change was then.
    ChangedAt(DateTime<Utc>),
}

impl Expected {
    /// # Errors
    /// The stored webhook is in another state.
    pub fn check(self, stored: Option<&Webhook>) -> Result<(), Invalid> {
        match (self, stored) {
            (Self::New, Some(_)) => {
                Err(Invalid::new(MUST_BE_NEW, "a webhook with this id exists already; nothing was changed"))
            }
            (Self::ChangedAt(at), stored) if stored.is_none_or(|stored| stored.updated_at != at) => {
                let why = "the webhook has changed since; nothing was changed, read it again by ListWebhooks";
                Err(Invalid::new(EXPECTED_UPDATED_AT, why))
            }
            _ => Ok(()),
        }
    }
}

/// The fields of a refusal because of another state.
pub const EXPECTED_UPDATED_AT: &str = "expected_updated_at";
pub const MUST_BE_NEW: &str = "must_be_new";

/// A webhook as an operator wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutWebhook {
    pub id: WebhookId,
    pub expected: Expected,
    /// `None` leaves both as they are.
    pub target: Option<(WebhookUrl, Types)>,
    /// `None` leaves it as it is; a new webhook is active.
    pub is_active: Option<bool>,
    /// The time for which the replaced secret stays valid; `None` replaces none.
    pub rotation: Option<TimeDelta>,
    /// The secret for a new webhook or a rotation, sealed.
    pub fresh: String,
}

/// The decision about a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The webhook is so already.
    Unchanged,
    Write(Box<Written>),
    Refused(Invalid),
}

/// A webhook to write, with the event of its change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub webhook: Webhook,
    pub event: AuditEvent,
    /// Whether the fresh secret is in use now.
    pub uses_fresh: bool,
    /// Whether all that waits is tried at once, as if for the first time.
    pub restarts: bool,
}

impl PutWebhook {
    /// Decides about the change. `stored` is the webhook with this id, `others` the number of other webhooks.
    ///
    /// `active: true` and another URL end the failure of a webhook. A rotation keeps each secret that is still valid, because a
    /// repeated call must not end the one that the receiver knows.
    pub fn decide(&self, stored: Option<&Webhook>, others: usize, call: &AuditedCall, now: DateTime<Utc>) -> Change {
        if let Err(refused) = self.expected.check(stored) {
            return Change::Refused(refused);
        }
        let Some(old) = stored else { return self.create(others, call, now) };
        let mut new = old.clone();
        if let Some((url, types)) = &self.target {
            (new.url, new.types) = (url.clone(), types.clone());
        }
        new.is_active = self.is_active.unwrap_or(old.is_active);
        // A receiver at another URL has refused nothing yet.
        let restarts = self.is_active == Some(true) && !old.is_served() || new.url != old.url;
        if restarts {
            restart(&mut new);
        }
        if let Some(overlap) = self.rotation
            && let Err(refused) = self.rotate(&mut new, overlap, now)
        {
            return Change::Refused(refused);
        }
        if new == *old {
            return Change::Unchanged;
        }
        // Each change has a time of its own, also by a clock that is behind.
        new.updated_at = now.max(old.updated_at + TimeDelta::microseconds(1));
        let mut after = state(&new);
        if new.url != old.url {
            // The states show the host alone.
            after["url_changed"] = true.into();
        }
        let event = call.event(now, None, Some(state(old)), Some(after));
        let uses_fresh = self.rotation.is_some();
        Change::Write(Box::new(Written { webhook: new, event, uses_fresh, restarts }))
    }

    fn create(&self, others: usize, call: &AuditedCall, now: DateTime<Utc>) -> Change {
        let Some((url, types)) = self.target.clone() else {
            return Change::Refused(Invalid::new("url", "must be given for a new webhook"));
        };
        if others >= MAX_WEBHOOKS {
            let why = format!("would be one more than {MAX_WEBHOOKS} webhooks; delete another one first");
            return Change::Refused(Invalid::new("webhook_id", why));
        }
        let webhook = Webhook {
            id: self.id.clone(),
            url,
            types,
            is_active: self.is_active.unwrap_or(true),
            secrets: vec![SealedSecret { sealed: self.fresh.clone(), until: None }],
            progress: Progress::default(),
            restarts: 0,
            created_at: now,
            updated_at: now,
        };
        let event = call.event(now, None, None, Some(state(&webhook)));
        Change::Write(Box::new(Written { webhook, event, uses_fresh: true, restarts: false }))
    }

    fn rotate(&self, webhook: &mut Webhook, overlap: TimeDelta, now: DateTime<Utc>) -> Result<(), Invalid> {
        let end = now + overlap;
        for old in &mut webhook.secrets {
            old.until = Some(old.until.map_or(end, |until| until.min(end)));
        }
        webhook.secrets.retain(|old| old.is_valid(now));
        webhook.secrets.insert(0, SealedSecret { sealed: self.fresh.clone(), until: None });
        if webhook.secrets.len() > MAX_SECRETS {
            let why = format!(
                "would be secret {} that is valid; wait, or end the others by overlap_hours: 0",
                MAX_SECRETS + 1
            );
            return Err(Invalid::new("rotate_secret", why));
        }
        Ok(())
    }
}

/// Tries all that waits again, and ends a failure.
pub fn restart(webhook: &mut Webhook) {
    let Progress { failures, failing_since, failed, .. } = &mut webhook.progress;
    (*failures, *failing_since, *failed) = (0, None, None);
    webhook.restarts = webhook.restarts.wrapping_add(1);
}

/// Whether a delivery beside the feed may be added, with so many `waiting`.
///
/// # Errors
/// [`Invalid`]: the webhook is not there, or too many deliveries wait.
pub fn may_resend(is_there: bool, waiting: u32, most: u32) -> Result<(), Invalid> {
    if !is_there {
        return Err(no_webhook());
    }
    if waiting >= most {
        let why = format!("has {most} deliveries that were asked for and wait already; try again later");
        return Err(Invalid::new("webhook_id", why));
    }
    Ok(())
}

/// The refusal of an unknown webhook.
pub fn no_webhook() -> Invalid {
    Invalid::new("webhook_id", "is the id of no webhook")
}

/// The event of a delivery that an operator asked for.
pub fn resent(resend: &Resend, call: &AuditedCall, now: DateTime<Utc>) -> AuditEvent {
    let asked = json!({
        "webhook_id": resend.webhook.as_str(),
        "event_id": resend.message.id.to_string(),
        "type": &*resend.message.kind,
    });
    call.event(now, None, None, Some(asked))
}

/// The state for the audit trail. It has no secret, but tells when one was replaced.
pub fn state(webhook: &Webhook) -> Value {
    let instant = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::AutoSi, true);
    let mut state = json!({
        "webhook_id": webhook.id.as_str(),
        "url": webhook.url.origin(),
        "types": webhook.types.names(),
        "active": webhook.is_active,
        "state": webhook.state().name(),
        "secrets": webhook.secrets.len(),
    });
    if let Some(until) = webhook.secrets.iter().filter_map(|secret| secret.until).max() {
        state["replaced_secret_until"] = instant(until).into();
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::biz::{
        audit_trail::{Actor, PUT_WEBHOOK},
        events::EventType,
        webhooks::{Failed, WebhookState},
    };

    fn at(hour: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::hours(hour)
    }

    fn put(fresh: &str) -> PutWebhook {
        PutWebhook {
            id: WebhookId::from_stored("w"),
            expected: Expected::Any,
            target: Some((WebhookUrl::from_stored("https://a/"), Types::All)),
            is_active: None,
            rotation: None,
            fresh: fresh.into(),
        }
    }

    fn decide(put: &PutWebhook, stored: Option<&Webhook>, hour: i64) -> Change {
        put.decide(stored, 0, &AuditedCall::new(PUT_WEBHOOK, Actor::new("ops", "admin", "r"), ""), at(hour))
    }

    fn written(put: &PutWebhook, stored: Option<&Webhook>, hour: i64) -> Written {
        match decide(put, stored, hour) {
            Change::Write(written) => *written,
            other => panic!("{other:?}"),
        }
    }

    fn secrets(webhook: &Webhook, hour: i64) -> Vec<&str> {
        webhook.secrets.iter().filter(|secret| secret.is_valid(at(hour))).map(|secret| &*secret.sealed).collect()
    }

    #[test]
    fn a_repeated_change_changes_nothing_and_shows_no_secret() {
        let first = written(&put("a"), None, 0);
        assert!(first.uses_fresh && first.webhook.is_active);
        assert_eq!(decide(&put("b"), Some(&first.webhook), 1), Change::Unchanged);
        let full =
            put("a").decide(None, MAX_WEBHOOKS, &AuditedCall::new(PUT_WEBHOOK, Actor::new("", "", ""), ""), at(0));
        assert!(matches!(full, Change::Refused(_)));
    }

    #[test]
    fn a_replaced_secret_stays_valid_for_its_time_even_if_the_call_is_repeated() {
        let day = |fresh| PutWebhook { rotation: Some(TimeDelta::hours(24)), ..put(fresh) };
        let first = written(&put("a"), None, 0).webhook;
        let second = written(&day("b"), Some(&first), 10).webhook;
        assert_eq!(secrets(&second, 33), ["b", "a"]);
        assert_eq!(secrets(&second, 34), ["b"]);
        let third = written(&day("c"), Some(&second), 11).webhook;
        assert_eq!(
            (secrets(&third, 33), secrets(&third, 34), secrets(&third, 35)),
            (vec!["c", "b", "a"], vec!["c", "b"], vec!["c"])
        );
        let fourth = written(&day("d"), Some(&third), 12).webhook;
        let Change::Refused(refused) = decide(&day("e"), Some(&fourth), 13) else { panic!() };
        assert_eq!(refused.field, "rotate_secret");
        let ended = written(&PutWebhook { rotation: Some(TimeDelta::zero()), ..put("f") }, Some(&fourth), 13).webhook;
        assert_eq!(secrets(&ended, 13), ["f"]);
    }

    #[test]
    fn a_change_of_a_state_that_the_caller_has_not_seen_is_refused() {
        let refused = |put: &PutWebhook, stored: Option<&Webhook>| match decide(put, stored, 0) {
            Change::Refused(refused) => refused.field,
            other => panic!("{other:?}"),
        };
        let new = PutWebhook { expected: Expected::New, ..put("a") };
        let first = written(&new, None, 0).webhook;
        assert_eq!(refused(&new, Some(&first)), "must_be_new");
        let rotation = PutWebhook {
            expected: Expected::ChangedAt(first.updated_at),
            rotation: Some(TimeDelta::hours(1)),
            ..put("b")
        };
        // By a clock that stands still.
        let second = written(&rotation, Some(&first), 0).webhook;
        assert_eq!(refused(&rotation, Some(&second)), "expected_updated_at");
        assert_eq!(refused(&rotation, None), "expected_updated_at");
    }

    #[test]
    fn a_rotation_alone_leaves_url_and_types_as_they_are() {
        let rotation = PutWebhook { target: None, rotation: Some(TimeDelta::hours(1)), ..put("b") };
        let some = Types::of(vec![EventType::BalanceLow]);
        let target = Some((WebhookUrl::from_stored("https://a/"), some.clone()));
        let first = written(&PutWebhook { target, ..put("a") }, None, 0).webhook;
        let rotated = written(&rotation, Some(&first), 1);
        assert_eq!((rotated.webhook.types, rotated.webhook.url, rotated.restarts), (some, first.url, false));
        assert!(matches!(decide(&rotation, None, 0), Change::Refused(refused) if refused.field == "url"));
    }

    #[test]
    fn only_an_explicit_activation_or_another_url_ends_a_failure() {
        let mut failed = written(&put("a"), None, 0).webhook;
        failed.progress.failed = Some(Failed { at: at(0), reason: "gone".into() });
        assert_eq!(decide(&put("b"), Some(&failed), 1), Change::Unchanged);
        let moved = PutWebhook { target: Some((WebhookUrl::from_stored("https://b/"), Types::All)), ..put("b") };
        let moved = written(&moved, Some(&failed), 1);
        assert_eq!((moved.restarts, moved.webhook.state(), moved.uses_fresh), (true, WebhookState::Active, false));
        let again = written(&PutWebhook { is_active: Some(true), ..put("b") }, Some(&failed), 1);
        assert_eq!((again.restarts, again.webhook.state(), again.uses_fresh), (true, WebhookState::Active, false));
        let paused = written(&PutWebhook { is_active: Some(false), ..put("b") }, Some(&again.webhook), 1).webhook;
        assert_eq!(paused.state(), WebhookState::Paused);
        let both = written(&PutWebhook { is_active: Some(false), ..put("b") }, Some(&failed), 1).webhook;
        assert_eq!((both.state(), both.is_served()), (WebhookState::Paused, false));
        assert!(written(&PutWebhook { is_active: Some(true), ..put("b") }, Some(&paused), 1).restarts);
    }

    #[test]
    fn the_audited_state_has_no_secret_and_shows_that_a_url_has_changed() {
        let url = |path: &str| WebhookUrl::from_stored(format!("https://a.example:8443/{path}"));
        let to = |path: &str, fresh: &str| PutWebhook { target: Some((url(path), Types::All)), ..put(fresh) };
        let first = written(&to("hidden-path?token=hidden-query", "hidden-a"), None, 0);
        let moved = PutWebhook { rotation: Some(TimeDelta::hours(1)), ..to("hidden-other", "hidden-b") };
        let second = written(&moved, Some(&first.webhook), 1);
        let read = |state: &Option<String>| serde_json::from_str::<Value>(state.as_deref().unwrap()).unwrap();
        let (old, new) = (read(&second.event.before), read(&second.event.after));
        assert_eq!((&old["url"], &new["url"]), (&json!("https://a.example:8443"), &json!("https://a.example:8443")));
        assert_eq!((&old["url_changed"], &new["url_changed"]), (&Value::Null, &json!(true)));
        for event in [first.event, second.event] {
            assert!(!format!("{:?}{:?}", event.before, event.after).contains("hidden"));
        }
    }
}
