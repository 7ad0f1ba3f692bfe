//! Tells billing what became of payments, each callback again and again until it is
//! answered. None waits for another one, not even of the same payment, unless the switch
//! says so: billing must do with any order. What was not sent when the sandbox stops is lost.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, oneshot},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    callback::{Answer, Callback, Sender},
    switches::Switches,
};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Of one callback; about an hour.
const MAX_ATTEMPTS: u32 = 2_000;
/// Attempts at once.
const MAX_IN_FLIGHT: usize = 256;
/// Copies of callbacks that are not answered yet; beyond these, callbacks are lost.
const MAX_WAITING: usize = 100_000;
/// How long a callback is held back when no next one comes.
const MAX_HOLD: Duration = Duration::from_secs(60);
/// Attempts that are remembered.
const MAX_LOG: usize = 10_000;

/// One try to send a callback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub order_id: String,
    /// SUCCESS or FAILED.
    pub status: String,
    /// From 1, counted for each copy of the callback.
    pub number: u32,
    pub answer: Answer,
}

pub struct Notifier {
    sender: Sender,
    waiting: Arc<Semaphore>,
    in_flight: Semaphore,
    /// Lets the callback go that is held back, by being dropped.
    held: Mutex<Option<oneshot::Sender<()>>>,
    log: Mutex<VecDeque<Attempt>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A callback's place in the order of things.
enum Turn {
    Now,
    /// Held back until the other end is dropped.
    AfterNext(oneshot::Receiver<()>),
    /// To be dropped when it has been answered.
    AheadOf(oneshot::Sender<()>),
}

impl Notifier {
    /// Sends until `stop`.
    pub fn new(sender: Sender, stop: CancellationToken) -> Self {
        let tasks = TaskTracker::new();
        // It can be waited for at any time; tasks may still be added.
        tasks.close();
        Self {
            sender,
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            in_flight: Semaphore::new(MAX_IN_FLIGHT),
            held: Mutex::default(),
            log: Mutex::default(),
            tasks,
            stop,
        }
    }

    /// Queues a callback, and what the switches make of it.
    pub fn queue(self: &Arc<Self>, callback: Callback, switches: &Switches) {
        let order_id = callback.order_id();
        if switches.lose {
            tracing::info!(order_id, "the callback is lost, as the switch says");
            return;
        }
        let Ok(places) = self.waiting.clone().try_acquire_many_owned(switches.copies()) else {
            tracing::warn!(order_id, "the callback is lost: too many others wait");
            return;
        };
        let turn = if switches.reorder { self.turn() } else { Turn::Now };
        let (this, delay, copies) = (self.clone(), switches.callback_delay(), switches.copies());
        let sending = async move {
            sleep(delay).await;
            this.send_in_turn(Arc::new(callback), copies, turn).await;
            drop(places);
        };
        self.tasks.spawn(self.stop.clone().run_until_cancelled_owned(sending));
    }

    /// The callback that is held back waits no longer for a next one.
    pub fn release_held(&self) {
        drop(lock(&self.held).take());
    }

    /// The latest attempts, the oldest first.
    pub fn log(&self) -> Vec<Attempt> {
        lock(&self.log).iter().cloned().collect()
    }

    /// Completes when no callback is under way.
    pub async fn idle(&self) {
        self.tasks.wait().await;
    }

    /// Every other one is held back, and the one behind it goes ahead of it.
    fn turn(&self) -> Turn {
        let mut held = lock(&self.held);
        match held.take() {
            // Closed: it waited for too long, and has gone.
            Some(ahead) if !ahead.is_closed() => Turn::AheadOf(ahead),
            _ => {
                let (release, released) = oneshot::channel();
                *held = Some(release);
                Turn::AfterNext(released)
            }
        }
    }

    async fn send_in_turn(self: Arc<Self>, callback: Arc<Callback>, copies: u32, turn: Turn) {
        let ahead_of = match turn {
            Turn::Now => None,
            Turn::AheadOf(held) => Some(held),
            Turn::AfterNext(released) => {
                // Whichever: that it was released, or that it waited long enough.
                let _ = timeout(MAX_HOLD, released).await;
                None
            }
        };
        let mut sending = JoinSet::new();
        for _ in 0..copies {
            sending.spawn(self.clone().send(callback.clone()));
        }
        while sending.join_next().await.is_some() {}
        drop(ahead_of);
    }

    async fn send(self: Arc<Self>, callback: Arc<Callback>) {
        let mut pause = FIRST_PAUSE;
        for number in 1..=MAX_ATTEMPTS {
            let Ok(place) = self.in_flight.acquire().await else {
                // The semaphore is never closed.
                return;
            };
            let answer = self.sender.send(&callback).await;
            drop(place);
            let is_final = answer.is_final();
            self.record(&callback, number, answer);
            if is_final {
                return;
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        tracing::warn!(order_id = callback.order_id(), attempts = MAX_ATTEMPTS, "gave up on the callback");
    }

    fn record(&self, callback: &Callback, number: u32, answer: Answer) {
        let (order_id, status) = (callback.order_id(), callback.status());
        match (answer.is_final(), number) {
            (true, _) => tracing::info!(order_id, status, number, ?answer, "callback answered"),
            (false, 1) => tracing::warn!(order_id, status, ?answer, "callback not answered; it will be sent again"),
            (false, _) => tracing::debug!(order_id, status, number, ?answer, "callback not answered"),
        }
        let attempt = Attempt { order_id: order_id.into(), status: status.into(), number, answer };
        let mut log = lock(&self.log);
        if log.len() >= MAX_LOG {
            log.pop_front();
        }
        log.push_back(attempt);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
