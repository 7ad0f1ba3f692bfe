//! Sends the events of the feed to the webhooks, while this process has the lease.
//!
//! Each webhook has a [`Queue`]. One loop asks the queues for their next steps, and stores their progress. Sends run
//! beside it. A crash repeats the sends since the last save; a receiver knows them by their ids.

mod round;
mod sends;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use self::sends::Sends;
use crate::biz::{
    events::reader::FeedReader,
    jobs::runs::LEASE,
    values::{calendar::Calendar, error::StoreError, ids::WebhookId},
    webhooks::{
        delivery::{Outcome, SEND_TIMEOUT, Sender},
        queue::Queue,
        secret::SecretVault,
        store::{DeliveryStore, Holder, SavedWebhook},
    },
};

/// The name of the job, and of its lease.
pub const JOB: &str = "deliver-webhooks";

/// Pause between two looks for new events.
const POLL: Duration = Duration::from_millis(500);
/// Pause between two reads of the webhooks.
const RELOAD: Duration = Duration::from_secs(1);
/// Pause between two looks for secrets of an earlier key.
const SEAL: Duration = Duration::from_secs(60);
/// Pause between two saves while events are delivered. A crash repeats the deliveries of this time.
const SAVE: Duration = Duration::from_millis(250);
/// Unsaved attempts after which a save does not wait for its time.
const MANY_ATTEMPTS: usize = 2_000;
/// Most rows of a save. What is left is saved in the next round, so that a save neither holds up charges nor grows beyond
/// a packet of the database.
pub const SAVED_ROWS: usize = 3_000;
/// The bounds of what is in memory for all webhooks together.
const IN_MEMORY: Bounds = Bounds { refused: 100_000, retries: 120_000, loaded: 300_000 };
/// Pause between two renewals of the lease while nothing is delivered.
const RENEWAL: Duration = Duration::from_secs(10);
/// Longest sleep of the loop, so that an attempt begins at its time.
const TICK: Duration = Duration::from_millis(100);
/// Pause after a failed read of the database.
const READ_PAUSE: Duration = Duration::from_secs(1);
/// Time of the reads of a round, so that a save comes in between while the database is slow.
const READS: Duration = Duration::from_millis(250);
/// Most deliveries on their way to one receiver.
const OF_WEBHOOK: usize = 8;
/// The deliveries on their way to a receiver, however many webhooks there are.
const AT_LEAST: usize = 2;
/// Most deliveries on their way to all receivers. Each webhook has its part, so that slow ones take none of others.
pub const IN_ALL: usize = 256;
/// The time that deliveries on their way have after a stop. Those that take longer are repeated.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// The time that saves have after a stop. Deliveries that are not saved then are repeated.
const LAST_SAVES: Duration = Duration::from_secs(10);
/// A delivery begins if it can end so long before the lease does.
const SPARE: Duration = Duration::from_secs(5);

/// Hears of each attempt.
pub trait DeliveryObserver: Send + Sync + 'static {
    fn attempted(&self, outcome: Outcome, took: Duration);
}

/// The dependencies of deliveries.
#[derive(Clone)]
pub struct Deliverer {
    pub store: Arc<dyn DeliveryStore>,
    pub feed: Arc<FeedReader>,
    pub sender: Arc<dyn Sender>,
    pub vault: Arc<dyn SecretVault>,
    pub calendar: Arc<Calendar>,
    pub observer: Arc<dyn DeliveryObserver>,
}

/// When deliveries end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// When they are asked to stop.
    Stopped,
    /// When nothing can be sent at the moment, too.
    Idle,
}

/// The result of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delivered {
    pub accepted: u64,
    pub failed: u64,
    /// Retries that wait for their next attempt.
    pub waiting: u64,
    /// Whether another process has taken the lease.
    pub is_lost: bool,
}

/// Bounds of the retries of all webhooks together. Each retry takes some hundred bytes.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// Users whose events are refused, at which the webhook with most of them has failed.
    refused: usize,
    /// Retries at which a webhook with more than its part of them gets no further events.
    retries: usize,
    /// Retries at which those of no further webhook are read: more than the other bounds leave, so that it only meets
    /// many webhooks that operators restart at once.
    loaded: usize,
}

/// The result of a save.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Save {
    /// Nothing is left.
    All,
    /// It had no room for all changes.
    Part,
    /// The database did not take the changes. They are kept for the next save.
    Failed,
    /// The lease is lost.
    Lost,
}

/// A run of deliveries.
struct Run<'d> {
    deliverer: &'d Deliverer,
    holder: Holder,
    bounds: Bounds,
    queues: BTreeMap<WebhookId, Queue>,
    sends: Sends,
    /// The last position of the feed, as far as it is known.
    last: u64,
    /// The end of the lease by the clock of this process, measured from before its last renewal.
    held_until: Instant,
    saved_at: Instant,
    /// Whether the last save had no room for all changes.
    is_save_full: bool,
    /// `None` before the first one, and while queues are left to read.
    reloaded_at: Option<Instant>,
    sealed_at: Option<Instant>,
    polled_at: Option<Instant>,
    /// The end of the pause after a failed read; `None` after a good one.
    paused_until: Option<Instant>,
    /// The number of rounds so far.
    rounds: usize,
    done: Delivered,
}

impl Deliverer {
    /// Delivers while `owner` has the lease of [`JOB`].
    ///
    /// # Errors
    /// The database does not answer at the begin, or fails. Deliveries that could not be saved will be repeated.
    pub async fn run(&self, owner: &str, until: Until, stop: &CancellationToken) -> Result<Delivered, StoreError> {
        let mut run = self.start(owner);
        if run.save().await? == Save::Lost {
            return Ok(Delivered { is_lost: true, ..run.done });
        }
        let ended = run.rounds(until, stop).await;
        if ended.is_err() {
            run.leave().await;
        }
        ended
    }

    fn start(&self, owner: &str) -> Run<'_> {
        let now = Instant::now();
        Run {
            deliverer: self,
            holder: Holder { job: JOB, owner: owner.to_owned() },
            bounds: IN_MEMORY,
            queues: BTreeMap::new(),
            sends: Sends::new(self.sender.clone(), self.vault.clone(), self.calendar.clone()),
            last: 0,
            held_until: now,
            saved_at: now,
            is_save_full: false,
            reloaded_at: None,
            sealed_at: None,
            polled_at: None,
            paused_until: None,
            rounds: 0,
            done: Delivered::default(),
        }
    }
}

impl Run<'_> {
    async fn rounds(&mut self, until: Until, stop: &CancellationToken) -> Result<Delivered, StoreError> {
        let mut stopped_at = None;
        // Ends: soon after `stop`, with the lease, or when nothing is left to do.
        loop {
            if stop.is_cancelled() {
                stopped_at.get_or_insert_with(Instant::now);
            } else {
                self.round().await?;
            }
            let is_done = match (stopped_at, until) {
                (Some(at), _) => self.sends.is_empty() || at.elapsed() >= STOP_TIMEOUT,
                (None, Until::Stopped) => false,
                (None, Until::Idle) => self.is_idle(),
            };
            let saved = match is_done || self.is_save_due() {
                true => self.save().await?,
                false => Save::All,
            };
            let is_late = stopped_at.is_some_and(|at| at.elapsed() >= LAST_SAVES);
            match saved {
                Save::Lost => return Ok(Delivered { is_lost: true, ..self.done }),
                Save::Part if is_done && !is_late => continue,
                Save::Failed if is_done && !is_late => {
                    tokio::time::sleep(SAVE).await;
                    continue;
                }
                Save::All | Save::Part | Save::Failed => {}
            }
            if is_done {
                if saved != Save::All {
                    tracing::warn!("progress of webhooks not saved in time; the last deliveries are repeated");
                }
                let waiting = |queue: &Queue| queue.retries() - queue.failed_users();
                self.done.waiting = self.queues.values().map(|queue| waiting(queue) as u64).sum();
                return Ok(self.done);
            }
            if Instant::now() >= self.held_until {
                return Ok(Delivered { is_lost: true, ..self.done });
            }
            self.wait(stop).await?;
        }
    }

    /// Whether a delivery that begins now ends while the lease lasts.
    fn may_send(&self) -> bool {
        Instant::now() + SEND_TIMEOUT + SPARE < self.held_until
    }

    fn is_idle(&self) -> bool {
        let now = self.deliverer.calendar.now().utc;
        self.polled_at.is_some()
            && self.reloaded_at.is_some()
            && self.paused_until.is_none()
            && self.sends.is_empty()
            && self.queues.values().all(|queue| queue.is_idle(self.last, now))
    }

    fn is_save_due(&self) -> bool {
        let since = self.saved_at.elapsed();
        let is_changed = || self.queues.values().any(Queue::has_unsaved);
        let has_many = || self.queues.values().map(Queue::unsaved_attempts).sum::<usize>() >= MANY_ATTEMPTS;
        self.is_save_full || since >= RENEWAL || since >= SAVE && is_changed() || has_many()
    }

    /// Before an end by an error: waits for the deliveries on their way, and saves.
    async fn leave(&mut self) {
        let began = Instant::now();
        let left = began + STOP_TIMEOUT;
        // Ends: each delivery is taken out, and no other one starts.
        while !self.sends.is_empty() {
            match tokio::time::timeout_at(left.into(), self.sends.next()).await {
                Ok(Ok(ended)) => self.end(ended),
                Ok(Err(error)) => tracing::error!(%error, "delivery to a webhook lost"),
                Err(_) => break,
            }
        }
        // Ends: in time.
        loop {
            let is_late = began.elapsed() >= LAST_SAVES;
            match self.save().await {
                Ok(Save::All | Save::Lost) => return,
                Ok(Save::Part) if !is_late => {}
                Ok(Save::Failed) if !is_late => tokio::time::sleep(SAVE).await,
                Ok(Save::Part | Save::Failed) => {
                    return tracing::warn!("progress of webhooks not saved in time; the last deliveries are repeated");
                }
                Err(error) => {
                    return tracing::warn!(%error, "progress of webhooks not saved; the last deliveries are repeated");
                }
            }
        }
    }

    /// Renews the lease and stores changes, at most [`SAVED_ROWS`].
    async fn save(&mut self) -> Result<Save, StoreError> {
        let mut room = SAVED_ROWS;
        let queues: Vec<_> = self.turn().iter().filter_map(|id| self.queues.get(id)).collect();
        let unsaved = queues.iter().filter_map(|queue| Some((*queue, queue.unsaved(&mut room)?)));
        let mut parts: Vec<(&Queue, SavedWebhook)> = unsaved.collect();
        // The most important rows of all webhooks come first.
        parts.iter_mut().for_each(|(queue, part)| queue.add_log(part, &mut room));
        parts.iter_mut().for_each(|(queue, part)| queue.add_hastened(part, &mut room));
        let changes: Vec<SavedWebhook> = parts.into_iter().map(|(_, part)| part).collect();
        self.is_save_full = false;
        let began = Instant::now();
        let saving = self.deliverer.store.save_deliveries(&self.holder, &changes);
        let saved = match saving.await {
            Ok(true) => {
                self.held_until = began + LEASE;
                self.is_save_full = room == 0;
                for change in &changes {
                    if let Some(queue) = self.queues.get_mut(&change.id) {
                        queue.saved(change);
                    }
                }
                if self.is_save_full { Save::Part } else { Save::All }
            }
            Ok(false) => return Ok(Save::Lost),
            // The changes stay for the next save. Nothing is sent when the lease may have ended.
            Err(error @ (StoreError::Conflict(_) | StoreError::Unavailable(_))) if began < self.held_until => {
                tracing::warn!(%error, "progress of webhooks not saved; it is saved again");
                if changes.is_empty() { Save::All } else { Save::Failed }
            }
            Err(error) => return Err(error),
        };
        self.saved_at = Instant::now();
        Ok(saved)
    }
}
