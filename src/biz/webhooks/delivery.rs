//! One delivery: the message, the way to the receiver, and the outcome.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::url::WebhookUrl;
use crate::biz::{
    events::{Event, Position},
    values::ids::{UserId, WebhookId},
};

/// The time in which a receiver must answer.
pub const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes of an answer that are read, so that its connection can be used again. They are dropped.
pub const MAX_ANSWER: usize = 16 * 1024;
/// The last attempts of a webhook that are kept: so many that were accepted, and so many that failed.
pub const KEPT_ATTEMPTS: u32 = 100;

/// An event for a receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub id: Uuid,
    pub kind: Arc<str>,
    pub at: DateTime<Utc>,
    /// A JSON object.
    pub data: String,
    /// That of the call that asked for the delivery.
    pub trace: Option<TraceContext>,
}

/// The headers of W3C Trace Context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    pub parent: String,
    pub state: Option<String>,
}

#[derive(Serialize)]
struct Body<'m> {
    id: String,
    r#type: &'m str,
    created_at: String,
    data: Value,
}

#[derive(Deserialize)]
struct Named {
    user_id: Option<String>,
}

impl Message {
    /// The JSON body. It is the same at each attempt.
    pub fn body(&self) -> String {
        let body = Body {
            id: self.id.to_string(),
            r#type: &self.kind,
            created_at: self.at.to_rfc3339_opts(SecondsFormat::AutoSi, true),
            data: serde_json::from_str(&self.data).unwrap_or_default(),
        };
        serde_json::to_string(&body).unwrap_or_default()
    }

    /// The user whom the data names. The data of an event of a user names that user.
    pub fn user(&self) -> Option<UserId> {
        let named: Named = serde_json::from_str(&self.data).ok()?;
        named.user_id.map(UserId::from_stored)
    }
}

impl From<&Event> for Message {
    fn from(event: &Event) -> Self {
        let Event { id, kind, data, at, .. } = event;
        Self { id: *id, kind: kind.as_str().into(), at: *at, data: data.clone(), trace: None }
    }
}

/// A signed message on its way.
#[derive(Debug, Clone)]
pub struct Post {
    pub url: WebhookUrl,
    pub id: Uuid,
    pub at: DateTime<Utc>,
    pub signature: String,
    pub body: String,
    pub trace: Option<TraceContext>,
}

/// The reason why an attempt failed: a word of a small set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The answer has another status than 2xx.
    Status,
    /// The answer leads to another URL. Redirects are not followed.
    Redirect,
    /// The answer is 410: the receiver wants no events any more.
    Gone,
    /// No answer in time.
    Timeout,
    /// The name has no address, or nobody listens.
    Connect,
    /// The connection ended before the answer.
    Closed,
    /// The certificate is not valid for the host.
    Tls,
    /// The host has an address that is not public.
    Address,
    /// The URL is without TLS, and the configuration no longer allows that.
    Plain,
    /// The secret can't be opened by the key of the configuration.
    Secret,
}

impl Failure {
    pub const ALL: [Self; 10] = [
        Self::Status,
        Self::Redirect,
        Self::Gone,
        Self::Timeout,
        Self::Connect,
        Self::Closed,
        Self::Tls,
        Self::Address,
        Self::Plain,
        Self::Secret,
    ];

    /// The name in the table, on the wire and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Redirect => "redirect",
            Self::Gone => "gone",
            Self::Timeout => "timeout",
            Self::Connect => "connect",
            Self::Closed => "closed",
            Self::Tls => "tls",
            Self::Address => "address",
            Self::Plain => "plain",
            Self::Secret => "secret",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|failure| failure.name() == name)
    }
}

/// The end of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// The HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// `None` if the receiver accepted the event.
    pub failure: Option<Failure>,
}

impl Outcome {
    /// The outcome of an answer.
    pub fn of_status(status: u16) -> Self {
        let failure = match status {
            200..=299 => None,
            300..=399 => Some(Failure::Redirect),
            410 => Some(Failure::Gone),
            _ => Some(Failure::Status),
        };
        Self { status: Some(status), failure }
    }

    pub fn failed(failure: Failure) -> Self {
        Self { status: None, failure: Some(failure) }
    }
}

/// Sends messages.
#[async_trait]
pub trait Sender: Send + Sync + 'static {
    /// Sends one message and waits for the answer, at most [`SEND_TIMEOUT`].
    async fn send(&self, post: Post) -> Outcome;
}

/// An attempt, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub webhook: WebhookId,
    /// The number among the attempts of the webhook.
    pub number: u64,
    /// The place among the kept attempts of the same outcome; a later one takes it.
    pub slot: u32,
    pub event: Uuid,
    pub kind: Arc<str>,
    pub user: Option<UserId>,
    pub began_at: DateTime<Utc>,
    pub took_ms: u32,
    pub outcome: Outcome,
    /// When the event is tried again.
    pub next_at: Option<DateTime<Utc>>,
}

impl Attempt {
    pub fn is_accepted(&self) -> bool {
        self.outcome.failure.is_none()
    }
}

/// A delivery that an operator asked for, beside the feed: the event of a test, or an event once more. It is
/// tried once, in no order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resend {
    pub id: Uuid,
    pub webhook: WebhookId,
    pub message: Message,
}

/// The events that keep their order among each other: those of a user, or those of none.
pub type OrderKey = Option<UserId>;

/// A stored retry: the events of one order that wait because the first of them was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRetry {
    pub key: OrderKey,
    /// The first event that is not delivered is at this position or behind it.
    pub next: Position,
    /// The failed attempts of the first event.
    pub attempts: u32,
    pub first_at: Option<DateTime<Utc>>,
    pub next_at: DateTime<Utc>,
    /// When the first event was given up. No event of the retry is sent until an operator restarts the webhook.
    pub failed_at: Option<DateTime<Utc>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_the_event_as_json() {
        let message = Message {
            id: Uuid::nil(),
            kind: "balance.low".into(),
            at: DateTime::from_timestamp_micros(1_764_469_800_000_001).unwrap(),
            data: r#"{"balance":"5","user_id":"ü"}"#.into(),
            trace: None,
        };
        assert_eq!(
            message.body(),
            r#"{"id":"00000000-0000-0000-0000-000000000000","type":"balance.low","created_at":"2025-11-30T02:30:00.000001Z","data":{"balance":"5","user_id":"ü"}}"#
        );
        assert_eq!(message.user().as_ref().map(UserId::as_str), Some("ü"));
        for data in [r#"{"month":"2025-11"}"#, r#"{"user_id":1}"#, ""] {
            assert_eq!(Message { data: data.into(), ..message.clone() }.user(), None, "{data}");
        }
    }

    #[test]
    fn only_a_status_of_200_to_299_accepts_an_event() {
        for (status, failure) in [
            (200, None),
            (204, None),
            (299, None),
            (199, Some(Failure::Status)),
            (300, Some(Failure::Redirect)),
            (308, Some(Failure::Redirect)),
            (400, Some(Failure::Status)),
            (410, Some(Failure::Gone)),
            (503, Some(Failure::Status)),
        ] {
            assert_eq!(Outcome::of_status(status).failure, failure, "{status}");
        }
        assert!(Failure::ALL.into_iter().all(|failure| Failure::from_name(failure.name()) == Some(failure)));
    }
}
