//! Deliveries from a database and to a receiver that a test plays.

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
        url::WebhookUrl,
    },
};

pub(super) fn webhook() -> Webhook {
    Webhook {
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
        let webhooks = if self.webhooks.is_empty() { vec![webhook()] } else { self.webhooks.clone() };
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
    let queue =
        Queue::new(Webhook { progress: Progress { position: 1, ..Default::default() }, ..webhook() }, vec![retry]);
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
    let webhook = Webhook { id: WebhookId::from_stored(id), progress, ..webhook() };
    Queue::new(webhook, retries.into_iter().collect())
}

/// A queue of a receiver that was down and then accepts a test, so that all `retries` are due early.
fn returned(id: &str, retries: usize) -> Queue {
    let now = Fake::calendar().now().utc;
    let mut queue = queue(id, (0..retries).map(retry));
    let message = Message { id: Uuid::nil(), kind: TEST_TYPE.into(), at: now, data: "{}".into(), trace: None };
    queue.add_resends([Resend { id: Uuid::nil(), webhook: queue.id().clone(), message }].iter());
    let Step::Send(test) = queue.next(now) else { panic!() };
    queue.done(*test, Outcome::of_status(200), Times { began_at: now, took: Duration::ZERO, now });
    queue
}

fn insert(run: &mut Run<'_>, queues: impl IntoIterator<Item = Queue>) {
    run.queues.extend(queues.into_iter().map(|queue| (queue.id().clone(), queue)));
}

#[tokio::test]
async fn a_save_has_a_bound_and_what_is_left_follows() {
    const RETRIES: usize = 2 * SAVED_ROWS + 10;
    const ENDED: usize = SAVED_ROWS + 20;
    let fake = Arc::new(Fake::default());
    let deliverer = fake.deliverer();
    let mut run = deliverer.start("o");
    // Retries without events end when they are read.
    let mut ending = returned("u", ENDED);
    let now = Fake::calendar().now().utc;
    while let Step::Read(read) = ending.next(now) {
        ending.take_retry(&read, Vec::new());
    }
    insert(&mut run, [ending, returned("v", RETRIES), returned("w", RETRIES)]);
    let mut saves = 0;
    while saves == 0 || run.is_save_full {
        assert_ne!(run.save().await.unwrap(), Save::Lost);
        saves += 1;
        assert!(saves < 10, "the saves come to an end");
    }
    let saved = fake.saved.lock().unwrap();
    assert!(saved.iter().all(|save| save.len() <= SAVED_ROWS), "{:?}", saved.iter().map(Vec::len));
    let all: BTreeSet<_> = saved.iter().flatten().collect();
    let count = |is_counted: fn(&Row) -> bool| all.iter().filter(|(_, row)| is_counted(row)).count();
    assert_eq!(count(|row| matches!(row, Row::Retry(_))), 2 * RETRIES);
    assert_eq!(count(|row| matches!(row, Row::Ended(_))), ENDED);
    assert_eq!(count(|row| matches!(row, Row::Attempt(_))), 3);
    assert_eq!(count(|row| matches!(row, Row::Resent(_))), 3);
    let rows: usize = saved.iter().map(Vec::len).sum();
    assert_eq!((rows, saves), (all.len(), all.len() / SAVED_ROWS + 1), "each once");
    assert!(run.queues.values().all(|queue| !queue.has_unsaved()));
}

/// Ends a run with three parts to save, of which the second one fails once.
async fn ends_with_a_failed_save(end: impl AsyncFnOnce(&mut Run<'_>, &CancellationToken)) {
    const RETRIES: usize = 2 * SAVED_ROWS + 10;
    let fake = Arc::new(Fake { failing_save: 2, ..Default::default() });
    let deliverer = fake.deliverer();
    let mut run = deliverer.start("o");
    run.held_until = Instant::now() + LEASE;
    insert(&mut run, [returned("w", RETRIES)]);
    end(&mut run, &fake.stop).await;
    assert!(run.queues.values().all(|queue| !queue.has_unsaved()), "all is saved");
    let saved = fake.saved.lock().unwrap();
    assert!(saved.iter().flatten().filter(|(_, row)| matches!(row, Row::Retry(_))).count() >= RETRIES);
}

#[tokio::test]
async fn a_stop_saves_again_what_a_failed_save_has_left() {
    ends_with_a_failed_save(async |run, stop| {
        stop.cancel();
        run.rounds(Until::Stopped, stop).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn an_end_by_an_error_saves_again_what_a_failed_save_has_left() {
    ends_with_a_failed_save(async |run, _| run.leave().await).await;
}

#[tokio::test]
async fn the_webhook_with_most_refused_users_has_failed_when_all_together_have_too_many() {
    let fake = Arc::new(Fake::default());
    let deliverer = fake.deliverer();
    let mut run = deliverer.start("o");
    run.bounds.refused = 10;
    insert(&mut run, [queue("few", (0..3).map(retry)), queue("many", (0..6).map(retry))]);
    let failed = |run: &Run<'_>| -> Vec<(String, String)> {
        let failed = |queue: &Queue| {
            let reason = queue.webhook.progress.failed.clone()?.reason;
            Some((queue.id().as_str().to_owned(), reason))
        };
        run.queues.values().filter_map(failed).collect()
    };
    run.bound_refused();
    assert_eq!(failed(&run), []);
    insert(&mut run, [queue("one", [retry(0)])]);
    for _ in 0..2 {
        run.bound_refused();
        let reason = "the receivers refused events of 10 users in all; this one of 6, the most";
        assert_eq!(failed(&run), [("many".to_owned(), reason.to_owned())]);
    }
    assert!(run.queues.values().any(Queue::has_unsaved), "the failure is saved");
}

#[tokio::test]
async fn a_webhook_with_few_retries_gets_events_when_others_have_too_many() {
    let fake = Fake::default();
    (0..2).for_each(|_| fake.write_event());
    let fake = Arc::new(fake);
    let deliverer = fake.deliverer();
    let mut run = deliverer.start("o");
    run.bounds.retries = 200;
    // Retries without an attempt count too. Their receivers are not down.
    let untried = |number| StoredRetry { attempts: 0, first_at: None, ..retry(number) };
    insert(&mut run, [queue("few", [untried(0)]), queue("many", (0..200).map(untried))]);
    let read = |run: &Run<'_>| run.queues.values().map(|queue| queue.reads_after().unwrap()).collect::<Vec<_>>();
    run.read_feed().await.unwrap();
    assert_eq!(read(&run), [2, 1]);
    run.bounds.retries = 202;
    run.polled_at = None;
    run.read_feed().await.unwrap();
    assert_eq!(read(&run), [2, 2]);
}

#[tokio::test]
async fn the_retries_of_many_webhooks_are_read_in_several_rounds_and_up_to_a_bound() {
    let webhooks = ["a", "b", "c"].map(|id| queue(id, []).webhook).to_vec();
    let retries = Mutex::new((0..5).map(retry).collect());
    let fake = Arc::new(Fake { read_time: READS, webhooks, retries, ..Default::default() });
    let deliverer = fake.deliverer();
    let mut run = deliverer.start("o");
    run.bounds.loaded = 10;
    run.polled_at = Some(Instant::now());
    run.reload_if_due().await.unwrap();
    assert_eq!((run.queues.len(), run.is_idle()), (1, false), "a save can renew the lease now");
    run.reload_if_due().await.unwrap();
    assert_eq!((run.queues.len(), run.is_idle()), (2, false));
    // The third one waits until the others have fewer.
    run.reload_if_due().await.unwrap();
    assert_eq!(run.queues.len(), 2);
    run.bounds.loaded = 11;
    run.reloaded_at = None;
    run.reload_if_due().await.unwrap();
    assert_eq!(run.queues.len(), 3);
}
