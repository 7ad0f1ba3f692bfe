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

use crate::biz::values::{error::StoreError, ids::UserId, paging::Cursor};

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
}

impl AuditedCall {
    pub fn new(rpc: &'static str, actor: Actor, reason: impl Into<String>) -> Self {
        Self { id: Uuid::now_v7(), rpc, actor, reason: reason.into() }
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
}
