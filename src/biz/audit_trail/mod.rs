//! The audit trail: an event for each call that changes an account, a limit or a quota on behalf of
//! an operator. It has the caller, and the state before and after the call.
//!
//! An event is written in the transaction of its change. So there is none without a change, and no
//! change without its event. A replay, a refusal, and a call that changes nothing leave none.
//! Nothing updates or deletes an event.

use std::{borrow::Cow, sync::Arc};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use crate::biz::values::{
    error::{Error, StoreError},
    ids::UserId,
    paging::Cursor,
    preview::{Fingerprint, Preview},
};

/// The rpcs whose calls leave events.
pub const AUDITED_RPCS: [&str; 16] = [
    ADJUST_BALANCE,
    DELETE_PRICE_VERSION,
    DELETE_WEBHOOK,
    INITIALIZE_USER,
    PUT_PRICE_VERSION,
    PUT_WEBHOOK,
    REDELIVER_WEBHOOK,
    REFUND_CHARGE,
    REFUND_RECHARGE,
    RESOLVE_PAYMENT,
    SET_ACCOUNT_STATUS,
    SET_ALERTS,
    SET_API_KEY_QUOTA,
    SET_USER_LIMITS,
    SET_USER_PLAN,
    TEST_WEBHOOK,
];

pub const ADJUST_BALANCE: &str = "AdjustBalance";
pub const DELETE_PRICE_VERSION: &str = "DeletePriceVersion";
pub const PUT_PRICE_VERSION: &str = "PutPriceVersion";
pub const INITIALIZE_USER: &str = "InitializeUser";
pub const REFUND_CHARGE: &str = "RefundCharge";
pub const REFUND_RECHARGE: &str = "RefundRecharge";
pub const RESOLVE_PAYMENT: &str = "ResolvePayment";
pub const SET_ACCOUNT_STATUS: &str = "SetAccountStatus";
pub const SET_ALERTS: &str = "SetAlerts";
pub const SET_API_KEY_QUOTA: &str = "SetApiKeyQuota";
pub const SET_USER_LIMITS: &str = "SetUserLimits";
pub const SET_USER_PLAN: &str = "SetUserPlan";
pub const DELETE_WEBHOOK: &str = "DeleteWebhook";
pub const PUT_WEBHOOK: &str = "PutWebhook";
pub const REDELIVER_WEBHOOK: &str = "RedeliverWebhook";
pub const TEST_WEBHOOK: &str = "TestWebhook";

/// The caller of a call, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    pub caller: Arc<str>,
    /// The role by which the caller was admitted.
    pub role: Arc<str>,
    pub request_id: Arc<str>,
}

impl Actor {
    /// Longest texts of an event, in characters.
    pub const MAX_CALLER: usize = 64;
    const MAX_ROLE: usize = 32;
    const MAX_REQUEST_ID: usize = 128;

    /// Cuts texts that are too long, because an event must never fail its change.
    pub fn new(caller: &str, role: &str, request_id: &str) -> Self {
        Self {
            caller: cut(caller, Self::MAX_CALLER),
            role: cut(role, Self::MAX_ROLE),
            request_id: cut(request_id, Self::MAX_REQUEST_ID),
        }
    }
}

fn cut(text: &str, max: usize) -> Arc<str> {
    match text.char_indices().nth(max) {
        Some((end, _)) => text[..end].into(),
        None => text.into(),
    }
}

/// The consent of a caller to a change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Consent {
    /// To the change as it is when it is made.
    #[default]
    Given,
    /// To the change of a preview, and to no other.
    To(Fingerprint),
    /// To nothing yet. The call tells its change, and does not make it.
    Withheld,
}

/// The actor of a call, its consent, and the id of its event.
#[derive(Debug, Clone)]
pub struct Intent {
    pub actor: Actor,
    /// The caller may choose it, so that a repeat of the call finds the event of the first one.
    pub event: Uuid,
    pub consent: Consent,
}

impl From<Actor> for Intent {
    fn from(actor: Actor) -> Self {
        Self { actor, event: Uuid::now_v7(), consent: Consent::Given }
    }
}

/// A call that leaves an event if it changes anything.
#[derive(Debug, Clone)]
pub struct AuditedCall {
    /// The id of its event. Set before the first attempt, so that a further attempt recognises the
    /// event of an earlier one.
    pub id: Uuid,
    pub rpc: &'static str,
    pub actor: Actor,
    /// Empty if the rpc takes none.
    pub reason: String,
    pub consent: Consent,
}

impl AuditedCall {
    pub fn new(rpc: &'static str, intent: impl Into<Intent>, reason: impl Into<String>) -> Self {
        let Intent { actor, event, consent } = intent.into();
        Self { id: event, rpc, actor, reason: reason.into(), consent }
    }

    /// The event of a change that may be made; `None` for a repeat, or for a call that changes nothing. The code that
    /// decides on a change asks this once, with the rows under lock.
    ///
    /// # Errors
    /// [`Error::NotMade`] if the call has no consent to the change.
    pub fn consented(&self, event: Option<AuditEvent>) -> Result<Option<AuditEvent>, Error> {
        self.consented_beside(event, None)
    }

    /// As [`Self::consented`], for a change that a preview shows beside other rows. `beside` is a text that is another one
    /// if these rows have changed, read with the lock that holds their changes.
    ///
    /// # Errors
    /// As [`Self::consented`].
    pub fn consented_beside(
        &self,
        event: Option<AuditEvent>,
        beside: Option<String>,
    ) -> Result<Option<AuditEvent>, Error> {
        match (&self.consent, event) {
            (Consent::Withheld, event) => Err(Error::NotMade(event.map(|event| Box::new(event.into_preview(beside))))),
            (Consent::To(seen), Some(event)) => {
                let change = event.clone().into_preview(beside);
                if *seen == change.fingerprint() {
                    Ok(Some(event))
                } else {
                    Err(Error::NotMade(Some(Box::new(change))))
                }
            }
            (Consent::Given | Consent::To(_), event) => Ok(event),
        }
    }

    /// Whether the call is a preview. It writes nothing, so it may read without a lock: its confirmation compares again.
    pub fn is_preview(&self) -> bool {
        self.consent == Consent::Withheld
    }

    /// Whether the call is a preview or its confirmation.
    pub fn is_previewed(&self) -> bool {
        self.consent != Consent::Given
    }

    /// The event of this call. A state is `None` if there was or is none.
    pub fn event(
        &self,
        at: DateTime<Utc>,
        user: Option<&UserId>,
        before: Option<Value>,
        after: Option<Value>,
    ) -> AuditEvent {
        AuditEvent {
            id: self.id,
            at,
            actor: self.actor.clone(),
            rpc: self.rpc.into(),
            user: user.cloned(),
            before: before.map(|state| state.to_string()),
            after: after.map(|state| state.to_string()),
            reason: self.reason.clone(),
        }
    }
}

/// A call that has changed something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEvent {
    pub id: Uuid,
    pub at: DateTime<Utc>,
    pub actor: Actor,
    pub rpc: Cow<'static, str>,
    /// `None` if the change belongs to no user, such as a quota of an API key.
    pub user: Option<UserId>,
    /// The changed state as a JSON object; `None` if there was none.
    pub before: Option<String>,
    pub after: Option<String>,
    pub reason: String,
}

impl AuditEvent {
    fn into_preview(self, beside: Option<String>) -> Preview {
        let Self { rpc, user, before, after, reason, .. } = self;
        Preview { rpc, user, before, after, reason, beside }
    }
}

/// The events to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuditFilter {
    pub user: Option<UserId>,
    pub rpc: Option<&'static str>,
    pub caller: Option<String>,
    /// The first instant is included, the second excluded.
    pub between: Option<(DateTime<Utc>, DateTime<Utc>)>,
}

/// Reads events.
#[async_trait]
pub trait AuditTrail: Send + Sync + 'static {
    /// At most `limit` events, newest first, after the position `after`. The cost does not grow with
    /// the depth.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn audit_events(
        &self,
        filter: &AuditFilter,
        after: Option<&Cursor>,
        limit: u32,
    ) -> Result<Vec<AuditEvent>, StoreError>;

    /// The event with an id.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn audit_event(&self, id: Uuid) -> Result<Option<AuditEvent>, StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_of_an_actor_fit_their_columns() {
        let actor = Actor::new(&"é".repeat(65), &"r".repeat(33), &"i".repeat(129));
        let lengths = [&actor.caller, &actor.role, &actor.request_id].map(|text| text.chars().count());
        assert_eq!(lengths, [Actor::MAX_CALLER, Actor::MAX_ROLE, Actor::MAX_REQUEST_ID]);
        assert_eq!(&*Actor::new("edge", "gateway", "r").caller, "edge");
        assert!(AUDITED_RPCS.iter().all(|rpc| rpc.len() <= 32));
    }

    #[test]
    fn a_change_is_made_only_with_the_consent_to_it() {
        let call = |consent| AuditedCall {
            consent,
            ..AuditedCall::new(SET_USER_PLAN, Actor::new("ops", "admin", "r"), "why")
        };
        let made = |call: &AuditedCall, after: &str| {
            call.consented(Some(call.event(DateTime::UNIX_EPOCH, None, None, Some(after.into()))))
                .map(|event| event.is_some())
        };
        let change = |answer: Result<bool, Error>| match answer {
            Err(Error::NotMade(change)) => change.unwrap(),
            other => panic!("{other:?}"),
        };
        assert_eq!(made(&call(Consent::Given), "a"), Ok(true));
        let seen = change(made(&call(Consent::Withheld), "a"));
        let consents = call(Consent::To(seen.fingerprint()));
        assert_eq!(made(&consents, "a"), Ok(true));
        assert_eq!(change(made(&consents, "b")).after.as_deref(), Some("\"b\""));
        assert_eq!(call(Consent::Withheld).consented(None), Err(Error::NotMade(None)));
        assert_eq!(consents.consented(None), Ok(None), "a repeat needs none");
        let event = || Some(consents.event(DateTime::UNIX_EPOCH, None, None, Some("a".into())));
        assert!(consents.consented_beside(event(), None).is_ok());
        let beside = change(consents.consented_beside(event(), Some("other rows".into())).map(|_| true));
        assert_eq!((beside.after.as_deref(), beside.beside.as_deref()), (Some("\"a\""), Some("other rows")));
    }
}
