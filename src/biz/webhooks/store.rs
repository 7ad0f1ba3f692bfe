//! The storage of webhooks and of their deliveries.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{
    Failed, MAX_WEBHOOKS, Types, Webhook, WebhookState,
    changes::{Expected, PutWebhook},
    delivery::{Attempt, OrderKey, Resend, StoredRetry},
    secret::SealedSecret,
};
use crate::biz::{
    audit_trail::AuditedCall,
    events::{Event, Position},
    values::{error::StoreError, ids::WebhookId, invalid::Invalid},
};

/// Most deliveries beside the feed that wait for one webhook.
pub const MAX_RESENDS: u32 = 20;
/// Most of them for all webhooks, which are read at once.
pub const ALL_RESENDS: u32 = MAX_RESENDS * MAX_WEBHOOKS as u32;

/// The result of a change by an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// The webhook as it is stored now.
    pub webhook: Webhook,
    pub changed: bool,
    /// Whether the fresh secret is in use now.
    pub uses_fresh: bool,
}

/// All webhooks, and the last position of the feed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Webhooks {
    /// Ordered by id.
    pub webhooks: Vec<Webhook>,
    pub last: Position,
}

/// The events that have no position in the feed yet. Only a reader of the feed gives them one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unplaced {
    /// Their number, up to [`MAX_UNPLACED`](crate::biz::jobs::ops_stats::MAX_UNPLACED).
    pub events: u64,
    /// The time of the first one.
    pub first_at: Option<DateTime<Utc>>,
}

/// The figures of all webhooks, for the metrics.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Figures {
    /// Webhooks that have failed.
    pub failed: u64,
    /// Events that active webhooks have not passed, in sum, with those that have no position yet.
    pub backlog: u64,
    /// Retries of active webhooks that are tried again.
    pub retries: u64,
    /// Users whose events were given up at an active webhook, in sum.
    pub failed_users: u64,
    /// The time of the oldest event that is not delivered to an active webhook; in a retry, that of its first attempt.
    pub oldest: Option<DateTime<Utc>>,
}

/// The retries of a webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetrySum {
    pub webhook: WebhookId,
    /// Those that are tried again.
    pub retries: u64,
    /// Those that were given up.
    pub failed: u64,
    /// The first attempt at an event that is tried again, or the time since which a retry without one is due.
    pub oldest: Option<DateTime<Utc>>,
}

/// Webhooks, for operators.
#[async_trait]
pub trait WebhookStore: Send + Sync + 'static {
    /// Writes a webhook and the event of its change, if [`PutWebhook::decide`] says so. A new webhook begins
    /// behind the last position of the feed.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: the outcome is unknown; a repeat is safe.
    /// [`StoreError::Conflict`]: nothing was written. [`StoreError::Failed`].
    async fn put_webhook(
        &self,
        put: &PutWebhook,
        call: &AuditedCall,
        now: DateTime<Utc>,
    ) -> Result<Result<Put, Invalid>, StoreError>;

    /// Deletes a webhook with all that waits for it, unless it is in another state. Returns whether it was there.
    ///
    /// # Errors
    /// As [`Self::put_webhook`].
    async fn delete_webhook(
        &self,
        (id, expected): (&WebhookId, Expected),
        call: &AuditedCall,
        now: DateTime<Utc>,
    ) -> Result<Result<bool, Invalid>, StoreError>;

    /// Tries all that waits for a webhook at once, and ends its failure. Returns whether the webhook is there.
    ///
    /// # Errors
    /// As [`Self::put_webhook`].
    async fn restart_webhook(&self, id: &WebhookId, call: &AuditedCall, now: DateTime<Utc>)
    -> Result<bool, StoreError>;

    /// Adds a delivery beside the feed. It is refused for an unknown webhook, and beyond [`MAX_RESENDS`].
    ///
    /// # Errors
    /// As [`Self::put_webhook`].
    async fn add_resend(
        &self,
        resend: &Resend,
        call: &AuditedCall,
        now: DateTime<Utc>,
    ) -> Result<Result<(), Invalid>, StoreError>;

    /// The kept event with an id.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn event_by_id(&self, id: uuid::Uuid) -> Result<Option<Event>, StoreError>;

    /// All webhooks.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn webhooks(&self) -> Result<Webhooks, StoreError>;

    /// The last attempts of a webhook, newest first; with `is_accepted` only those of this outcome.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn attempts(&self, id: &WebhookId, is_accepted: Option<bool>, limit: u32)
    -> Result<Vec<Attempt>, StoreError>;

    /// The retries of each webhook that is served and has any.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn retry_sums(&self) -> Result<Vec<RetrySum>, StoreError>;

    /// The number of users whose events were given up, of each webhook that has any, also of those that are not served.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn failed_users(&self) -> Result<Vec<(WebhookId, u64)>, StoreError>;

    /// The time of the first event of the feed behind a position.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn time_behind(&self, position: Position) -> Result<Option<DateTime<Utc>>, StoreError>;

    /// The events without a position.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn unplaced(&self) -> Result<Unplaced, StoreError>;
}

impl Webhooks {
    /// The number of webhooks that have failed.
    pub fn failed(&self) -> u64 {
        self.webhooks.iter().filter(|webhook| webhook.state() == WebhookState::Failed).count() as u64
    }
}

/// The figures of all webhooks, as they were read.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Failed`].
pub async fn figures(store: &dyn WebhookStore, read: &Webhooks) -> Result<Figures, StoreError> {
    let (webhooks, last) = (&read.webhooks, read.last);
    let served = || webhooks.iter().filter(|webhook| webhook.is_served());
    let behind = || served().map(|webhook| last.saturating_sub(webhook.progress.position));
    // If nobody delivers, nobody reads the feed either.
    let unplaced = match served().next() {
        Some(_) => store.unplaced().await?,
        None => Unplaced::default(),
    };
    let sums = match webhooks.is_empty() {
        true => Vec::new(),
        false => store.retry_sums().await?,
    };
    let retries = || sums.iter().filter(|sum| served().any(|webhook| webhook.id == sum.webhook));
    let event = match behind().max() {
        Some(most) if most > 0 => store.time_behind(last.saturating_sub(most)).await?,
        _ => None,
    };
    Ok(Figures {
        failed: read.failed(),
        backlog: behind().map(|behind| behind + unplaced.events).sum(),
        retries: retries().map(|sum| sum.retries).sum(),
        failed_users: retries().map(|sum| sum.failed).sum(),
        oldest: retries().filter_map(|sum| sum.oldest).chain(event).chain(unplaced.first_at).min(),
    })
}

/// The changes of one webhook since the last save.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedWebhook {
    pub id: WebhookId,
    /// When it was made. A later webhook with the same id has nothing in common with it.
    pub made_at: DateTime<Utc>,
    /// The restarts that the deliverer knows. After another restart, a failure is not written.
    pub restarts: u32,
    pub position: Position,
    pub attempts: u64,
    pub accepted: u64,
    pub failures: u32,
    pub failing_since: Option<DateTime<Utc>>,
    pub failed: Option<Failed>,
    /// Retries that are new or have changed.
    pub retries: Vec<StoredRetry>,
    /// Retries that have ended.
    pub ended: Vec<OrderKey>,
    /// The last attempts since the last save, in order.
    pub log: Vec<Attempt>,
    /// Deliveries beside the feed that were made.
    pub resent: Vec<uuid::Uuid>,
}

impl SavedWebhook {
    /// The retries to write over a webhook with so many restarts. After a restart that the deliverer has not seen, all of
    /// them count anew.
    pub fn retries_after(&self, restarts: u32) -> impl Iterator<Item = StoredRetry> {
        let is_restarted = restarts != self.restarts;
        self.retries.iter().cloned().map(move |retry| match is_restarted {
            true => StoredRetry { attempts: 0, first_at: None, failed_at: None, ..retry },
            false => retry,
        })
    }
}

/// The owner of the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub job: &'static str,
    pub owner: String,
}

/// Reads what is to be delivered, and stores the progress.
#[async_trait]
pub trait DeliveryStore: WebhookStore {
    /// The deliveries beside the feed that wait, by webhook, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn resends(&self) -> Result<Vec<Resend>, StoreError>;

    /// The retries of a webhook.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn retries(&self, id: &WebhookId) -> Result<Vec<StoredRetry>, StoreError>;

    /// At most `limit` events of one order, of these types, behind `after` and up to `until`, in order.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn events_of(
        &self,
        key: &OrderKey,
        types: &Types,
        (after, until): (Position, Position),
        limit: u32,
    ) -> Result<Vec<Event>, StoreError>;

    /// Replaces the secrets of a webhook by the same ones, sealed again, unless they have changed since it was read.
    /// Returns whether it did.
    ///
    /// # Errors
    /// [`StoreError::Conflict`], [`StoreError::Unavailable`], [`StoreError::Failed`]; a repeat is safe.
    async fn seal_again(&self, webhook: &Webhook, secrets: &[SealedSecret]) -> Result<bool, StoreError>;

    /// Renews the lease, and stores the changes in the same transaction. False if another process has the lease or
    /// the lease has expired; nothing is stored then. Changes of a deleted webhook are left out.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: the outcome is unknown; a repeat is safe.
    /// [`StoreError::Conflict`]: nothing was written. [`StoreError::Failed`].
    async fn save_deliveries(&self, holder: &Holder, changes: &[SavedWebhook]) -> Result<bool, StoreError>;
}
