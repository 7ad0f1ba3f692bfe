//! Deliveries from a database and to a receiver that a test plays.

mod bounds;
mod saves;

use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use uuid::Uuid;

use super::*;
use crate::biz::{
    audit_trail::AuditedCall,
    events::{Event, EventFeed, EventFilter, EventPage, EventType, OldEvents, Placing, Position},
    values::{calendar::SystemClock, ids::UserId, invalid::Invalid},
    webhooks::{
        Progress, TEST_TYPE, Types, Webhook,
        changes::{Expected, PutWebhook},
        delivery::{Attempt, Message, OrderKey, Post, Resend, StoredRetry},
        queue::{Step, Times},
        secret::{SealedSecret, SigningSecret, VaultError},
        store::{Put, RetrySum, Unplaced, WebhookStore, Webhooks},
    },
};

/// A row of a save.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Row {
    Retry(OrderKey),
    Ended(OrderKey),
    Attempt(u64),
    Resent(Uuid),
}

/// A database with webhooks and events of different users, and a receiver that accepts all.
#[derive(Default)]
pub(super) struct Fake {
    events: Mutex<Vec<Event>>,
    retries: Mutex<Vec<StoredRetry>>,
    /// Whether positions cannot be given.
    has_conflict: bool,
    /// The failure of the second read of the webhooks.
    failure: Mutex<Option<StoreError>>,
    reads: AtomicUsize,
    has_failed: Notify,
    /// The receiver answers after the failure.
    answers_late: bool,
    /// The time of a read of a retry.
    read_time: Duration,
    sends: AtomicUsize,
    position: Mutex<Position>,
    /// The webhooks, one without them.
    webhooks: Vec<Webhook>,
    /// The rows of each save, by webhook.
    saved: Mutex<Vec<Vec<(WebhookId, Row)>>>,
    /// The save that fails, counted from 1.
    failing_save: usize,
    saves: AtomicUsize,
    /// The webhooks whose secrets were sealed again, and the secrets.
    pub(super) sealed: Mutex<Vec<(String, String)>>,
    stop: CancellationToken,
    /// Stops after so many deliveries.
    stops_after: usize,
}

impl Fake {
    pub(super) fn calendar() -> Arc<Calendar> {
        Arc::new(Calendar::new(chrono_tz::UTC, SystemClock))
    }

    fn write_event(&self) {
        let mut events = self.events.lock().unwrap();
        let position = events.len() as Position + 1;
        events.push(Event {
            position,
            id: Uuid::from_u128(position.into()),
            kind: EventType::AccountStatus.name().into(),
            user: Some(UserId::from_stored(format!("u{position}"))),
            data: "{}".into(),
            at: DateTime::UNIX_EPOCH,
        });
    }

    pub(super) fn deliverer(self: &Arc<Self>) -> Deliverer {
        Deliverer {
            store: self.clone(),
            feed: Arc::new(FeedReader::new(self.clone())),
            sender: self.clone(),
            vault: self.clone(),
            calendar: Self::calendar(),
            observer: self.clone(),
        }
    }
}

impl DeliveryObserver for Fake {
    fn attempted(&self, _: Outcome, _: Duration) {}
}

#[async_trait]
impl Sender for Fake {
    async fn send(&self, _: Post) -> Outcome {
        if self.answers_late {
            self.has_failed.notified().await;
        }
        if self.sends.fetch_add(1, SeqCst) + 1 == self.stops_after {
            self.stop.cancel();
        }
        Outcome::of_status(200)
    }
}

impl SecretVault for Fake {
    fn fresh(&self) -> Result<SigningSecret, VaultError> {
        unimplemented!()
    }

    fn seal(&self, _: &WebhookId, _: &SigningSecret) -> Result<String, VaultError> {
        unimplemented!()
    }

    fn open(&self, _: &WebhookId, sealed: &str) -> Result<SigningSecret, VaultError> {
        sealed.starts_with("own-").then(|| SigningSecret::new([0; 32])).ok_or(VaultError("foreign"))
    }

    fn sealed_again(&self, _: &WebhookId, sealed: &str) -> Result<Option<String>, VaultError> {
        Ok(sealed.strip_prefix("old-").map(|secret| format!("own-{secret}")))
    }
}

#[async_trait]
impl EventFeed for Fake {
    async fn place_events(&self) -> Result<Placing, StoreError> {
        match self.has_conflict {
            true => Err(StoreError::Conflict("the position is taken".into())),
            false => Ok(Placing::Placed(0)),
        }
    }

    async fn placed_events(&self, _: &EventFilter, after: Position, limit: u32) -> Result<EventPage, StoreError> {
        let events = self.events.lock().unwrap();
        let page: Vec<Event> = events.iter().skip(after as usize).take(limit as usize).cloned().collect();
        let next = after + page.len() as Position;
        Ok(EventPage { events: page, next, ..Default::default() })
    }

    async fn old_events(&self, _: DateTime<Utc>, _: i64) -> Result<OldEvents, StoreError> {
        unimplemented!()
    }

    async fn delete_events(&self, _: &[i64]) -> Result<(), StoreError> {
        unimplemented!()
    }
}

#[async_trait]
impl WebhookStore for Fake {
    async fn put_webhook(
        &self,
        _: &PutWebhook,
        _: &AuditedCall,
        _: DateTime<Utc>,
    ) -> Result<Result<Put, Invalid>, StoreError> {
        unimplemented!()
    }

    async fn delete_webhook(
        &self,
        _: (&WebhookId, Expected),
        _: &AuditedCall,
        _: DateTime<Utc>,
    ) -> Result<Result<bool, Invalid>, StoreError> {
        unimplemented!()
    }

    async fn restart_webhook(&self, _: &WebhookId, _: &AuditedCall, _: DateTime<Utc>) -> Result<bool, StoreError> {
        unimplemented!()
    }

    async fn add_resend(
        &self,
        _: &Resend,
        _: &AuditedCall,
        _: DateTime<Utc>,
    ) -> Result<Result<(), Invalid>, StoreError> {
        unimplemented!()
    }

    async fn event_by_id(&self, _: Uuid) -> Result<Option<Event>, StoreError> {
        unimplemented!()
    }

    async fn webhooks(&self) -> Result<Webhooks, StoreError> {
        if self.reads.fetch_add(1, SeqCst) == 1
            && let Some(failure) = self.failure.lock().unwrap().take()
        {
            self.write_event();
            self.has_failed.notify_one();
            return Err(failure);
        }
        let webhooks = if self.webhooks.is_empty() { vec![Webhook::example()] } else { self.webhooks.clone() };
        Ok(Webhooks { webhooks, last: 0 })
    }

    async fn attempts(&self, _: &WebhookId, _: Option<bool>, _: u32) -> Result<Vec<Attempt>, StoreError> {
        unimplemented!()
    }

    async fn retry_sums(&self) -> Result<Vec<RetrySum>, StoreError> {
        unimplemented!()
    }

    async fn failed_users(&self) -> Result<Vec<(WebhookId, u64)>, StoreError> {
        unimplemented!()
    }

    async fn time_behind(&self, _: Position) -> Result<Option<DateTime<Utc>>, StoreError> {
        unimplemented!()
    }

    async fn unplaced(&self) -> Result<Unplaced, StoreError> {
        unimplemented!()
    }
}

#[async_trait]
impl DeliveryStore for Fake {
    async fn resends(&self) -> Result<Vec<Resend>, StoreError> {
        Ok(Vec::new())
    }

    async fn retries(&self, _: &WebhookId) -> Result<Vec<StoredRetry>, StoreError> {
        tokio::time::sleep(self.read_time).await;
        Ok(self.retries.lock().unwrap().clone())
    }

    async fn events_of(
        &self,
        key: &OrderKey,
        _: &Types,
        _: (Position, Position),
        _: u32,
    ) -> Result<Vec<Event>, StoreError> {
        tokio::time::sleep(self.read_time).await;
        Ok(self.events.lock().unwrap().iter().filter(|event| event.user == *key).cloned().collect())
    }

    async fn seal_again(&self, webhook: &Webhook, secrets: &[SealedSecret]) -> Result<bool, StoreError> {
        if webhook.id.as_str() == "busy" {
            return Err(StoreError::Conflict("the row is locked".into()));
        }
        self.sealed.lock().unwrap().push((webhook.id.as_str().to_owned(), secrets[0].sealed.clone()));
        Ok(true)
    }

    async fn save_deliveries(&self, _: &Holder, changes: &[SavedWebhook]) -> Result<bool, StoreError> {
        if self.saves.fetch_add(1, SeqCst) + 1 == self.failing_save {
            return Err(StoreError::Conflict("another node has changed a row".into()));
        }
        if let Some(change) = changes.last() {
            *self.position.lock().unwrap() = change.position;
        }
        let of = |change: &SavedWebhook| -> Vec<_> {
            let retries = change.retries.iter().map(|retry| Row::Retry(retry.key.clone()));
            let ended = change.ended.iter().cloned().map(Row::Ended);
            let log = change.log.iter().map(|attempt| Row::Attempt(attempt.number));
            let resent = change.resent.iter().copied().map(Row::Resent);
            retries.chain(ended).chain(log).chain(resent).map(|row| (change.id.clone(), row)).collect()
        };
        self.saved.lock().unwrap().push(changes.iter().flat_map(of).collect());
        Ok(true)
    }
}

#[tokio::test]
async fn a_read_that_fails_once_ends_no_delivery() {
    let outage = StoreError::Unavailable("no answer".into());
    let fake = Fake { failure: Mutex::new(Some(outage)), stops_after: 2, ..Default::default() };
    fake.write_event();
    let fake = Arc::new(fake);
    let delivered = fake.deliverer().run("o", Until::Stopped, &fake.stop).await.unwrap();
    assert_eq!((delivered.accepted, delivered.is_lost), (2, false));
    assert_eq!(*fake.position.lock().unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn events_with_positions_are_sent_while_new_ones_get_none() {
    let fake = Fake { has_conflict: true, stops_after: 1, ..Default::default() };
    fake.write_event();
    let fake = Arc::new(fake);
    let deliverer = fake.deliverer();
    let running = deliverer.run("o", Until::Stopped, &fake.stop);
    let delivered = tokio::time::timeout(Duration::from_secs(60), running).await.expect("the event is sent").unwrap();
    assert_eq!((delivered.accepted, delivered.is_lost), (1, false));
}

#[tokio::test]
async fn a_failure_of_the_database_loses_no_progress() {
    let defect = StoreError::Failed("malformed".into());
    let fake = Fake { failure: Mutex::new(Some(defect)), answers_late: true, ..Default::default() };
    fake.write_event();
    let fake = Arc::new(fake);
    fake.deliverer().run("o", Until::Stopped, &fake.stop).await.unwrap_err();
    assert_eq!(*fake.position.lock().unwrap(), 1, "the delivery that was on its way is saved");
}

#[tokio::test]
async fn no_delivery_begins_when_a_slow_read_has_used_the_lease_up() {
    let fake = Fake { read_time: Duration::from_millis(100), ..Default::default() };
    fake.write_event();
    let key = fake.events.lock().unwrap()[0].user.clone();
    let retry =
        StoredRetry { key, next: 1, attempts: 1, first_at: None, next_at: DateTime::UNIX_EPOCH, failed_at: None };
    let fake = Arc::new(fake);
    let deliverer = fake.deliverer();
    let mut run = deliverer.start("o");
    let queue = Queue::new(
        Webhook { progress: Progress { position: 1, ..Default::default() }, ..Webhook::example() },
        vec![retry],
    );
    run.queues.insert(queue.id().clone(), queue);
    run.held_until = Instant::now() + SEND_TIMEOUT + SPARE + Duration::from_millis(50);
    run.start_sends().await.unwrap();
    assert!(run.sends.is_empty(), "the lease would end before the delivery");
    run.held_until = Instant::now() + LEASE;
    run.start_sends().await.unwrap();
    assert!(!run.sends.is_empty());
}

/// A retry of a user that was refused once, and is tried again in an hour.
fn retry(number: usize) -> StoredRetry {
    let now = Fake::calendar().now().utc;
    StoredRetry {
        key: Some(UserId::from_stored(format!("u{number}"))),
        next: 1,
        attempts: 1,
        first_at: Some(now),
        next_at: now + chrono::TimeDelta::hours(1),
        failed_at: None,
    }
}

fn queue(id: &str, retries: impl IntoIterator<Item = StoredRetry>) -> Queue {
    let progress =
        Progress { position: 1, failures: 8, failing_since: Some(DateTime::UNIX_EPOCH), ..Default::default() };
    let webhook = Webhook { id: WebhookId::from_stored(id), progress, ..Webhook::example() };
    Queue::new(webhook, retries.into_iter().collect())
}

fn insert(run: &mut Run<'_>, queues: impl IntoIterator<Item = Queue>) {
    run.queues.extend(queues.into_iter().map(|queue| (queue.id().clone(), queue)));
}
