//! Webhooks: URLs of receivers, to which the events of the feed are sent.
//!
//! A webhook has a position in the feed. Everything up to it is delivered, or waits in a *retry*: one for each user
//! whose next event was not accepted, or who has many events. All later events of that user wait in it too, so the
//! events of a user stay in order, and no other user waits for them.

pub mod address;
pub mod changes;
pub mod delivery;
pub mod queue;
pub mod schedule;
pub mod secret;
pub mod store;
pub mod url;

use chrono::{DateTime, Utc};

use self::{secret::SealedSecret, url::WebhookUrl};
use crate::biz::{
    events::{EventType, Position},
    values::ids::WebhookId,
};

/// Most webhooks. Each has its part of the connections.
pub const MAX_WEBHOOKS: usize = 100;

/// The type of the event of a test, which is not in the feed.
pub const TEST_TYPE: &str = "webhook.test";

/// The types of events that a webhook gets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Types {
    #[default]
    All,
    Some(Vec<EventType>),
}

impl Types {
    /// The given types, each once; all types for none.
    pub fn of(mut types: Vec<EventType>) -> Self {
        if types.is_empty() {
            return Self::All;
        }
        types.sort_unstable_by_key(|kind| kind.name());
        types.dedup();
        Self::Some(types)
    }

    /// The stored form: names with commas, or an empty text for all.
    pub fn stored(&self) -> String {
        self.names().join(",")
    }

    /// The types of [`Self::stored`]. A type that a later release knows is left out.
    pub fn from_stored(text: &str) -> Self {
        if text.is_empty() {
            return Self::All;
        }
        Self::Some(text.split(',').filter_map(|name| name.parse().ok()).collect())
    }

    /// The names; none for all types.
    pub fn names(&self) -> Vec<&'static str> {
        match self {
            Self::All => Vec::new(),
            Self::Some(types) => types.iter().map(|kind| kind.name()).collect(),
        }
    }

    /// Whether events of the type with this name are sent. All types include those of a newer release.
    pub fn contains(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Some(types) => types.iter().any(|kind| kind.name() == name),
        }
    }
}

/// A stored webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    pub id: WebhookId,
    pub url: WebhookUrl,
    pub types: Types,
    /// Whether events are sent. Those of a pause follow after it.
    pub is_active: bool,
    /// The current secret, and then those that it has replaced.
    pub secrets: Vec<SealedSecret>,
    pub progress: Progress,
    /// How often an operator has asked for a new attempt of all that waits.
    pub restarts: u32,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

#[cfg(test)]
impl Webhook {
    /// An active webhook of all types, without secrets, that has delivered nothing.
    pub fn example() -> Self {
        Self {
            id: WebhookId::from_stored("w"),
            url: WebhookUrl::from_stored("https://a/"),
            types: Types::All,
            is_active: true,
            secrets: Vec::new(),
            progress: Progress::default(),
            restarts: 0,
            created_at: DateTime::UNIX_EPOCH,
            updated_at: DateTime::UNIX_EPOCH,
        }
    }
}

/// How far the deliveries of a webhook are. Only the holder of the lease changes it, but for a restart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// All events up to it are delivered, or wait in retries.
    pub position: Position,
    /// The number of attempts so far.
    pub attempts: u64,
    /// Those of them that were accepted.
    pub accepted: u64,
    /// Attempts in a row that have failed.
    pub failures: u32,
    /// The first of them.
    pub failing_since: Option<DateTime<Utc>>,
    /// Set when the webhook has failed for good.
    pub failed: Option<Failed>,
}

/// The end of a webhook, until an operator activates it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    pub at: DateTime<Utc>,
    pub reason: String,
}

/// The state of a webhook for operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebhookState {
    Active,
    /// The last attempts have failed, and are repeated.
    Failing,
    /// No attempts are made, until an operator activates it again.
    Failed,
    Paused,
}

impl WebhookState {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Failing => "failing",
            Self::Failed => "failed",
            Self::Paused => "paused",
        }
    }
}

impl Webhook {
    pub fn state(&self) -> WebhookState {
        match self.progress {
            _ if !self.is_active => WebhookState::Paused,
            Progress { failed: Some(_), .. } => WebhookState::Failed,
            Progress { failing_since: Some(_), .. } => WebhookState::Failing,
            _ => WebhookState::Active,
        }
    }

    /// Whether its events are sent.
    pub fn is_served(&self) -> bool {
        self.is_active && self.progress.failed.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_stored_by_their_names_and_an_unknown_one_is_never_all() {
        let some = Types::of(vec![EventType::MonthClosed, EventType::BalanceLow, EventType::MonthClosed]);
        assert_eq!(some.stored(), "balance.low,month.closed");
        assert_eq!(Types::from_stored(&some.stored()), some);
        assert!(some.contains("balance.low") && !some.contains("account.status"));
        assert_eq!((Types::of(vec![]), Types::from_stored("")), (Types::All, Types::All));
        assert_eq!(Types::from_stored("of.a.later.release"), Types::Some(vec![]));
    }
}
