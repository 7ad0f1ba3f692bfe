//! Sends the outcome of payments, and of money that went back, to billing. Each callback is retried until billing answers it,
//! and given up after 2,000 attempts or 6 hours.
//!
//! Callbacks are sent concurrently, also those of one payment, because billing must accept them
//! in any order. A callback waits for another one only while the switch `reorder` is on, or when
//! too many attempts are in flight ([`super::permits`]). Callbacks that are not sent when the
//! sandbox stops are lost.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::{
    sync::{Semaphore, oneshot},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    callback::{Answer, Callback, Sender},
    permits::Permits,
    switches::Switches,
};

/// Pauses between two attempts of one callback.
const BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(50))
    .with_max_delay(Duration::from_millis(1_500))
    .without_max_times()
    .with_jitter();
/// Attempts of one callback. If billing refuses connections, they last over an hour.
const MAX_ATTEMPTS: u32 = 2_000;
/// Time limit of one callback, including the waits for a permit. An attempt without an answer
/// takes 10 seconds.
const MAX_TIME: Duration = Duration::from_hours(6);
/// Copies of callbacks that wait for an answer; a callback beyond them is lost.
const MAX_WAITING: usize = 100_000;
/// Longest time that a callback is held back, also without a next one.
const MAX_HOLD: Duration = Duration::from_secs(60);
/// Attempts that the log keeps.
const MAX_LOG: usize = 10_000;

/// One attempt to send a callback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub order_id: String,
    /// SUCCESS, FAILED, REFUNDED or CHARGEBACK.
    pub status: String,
    /// Number of the attempt, from 1, for each copy of the callback.
    pub number: u32,
    pub answer: Answer,
}

pub struct Notifier {
    sender: Sender,
    waiting: Arc<Semaphore>,
    permits: Permits,
    /// Present while the switch `reorder` is on.
    reorder: Mutex<Option<Reorder>>,
    log: Mutex<VecDeque<Attempt>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// State of the switch `reorder` from the moment it is on until it is off.
#[derive(Default)]
struct Reorder {
    /// The callback that is held back and still waits for a next one.
    held: Option<oneshot::Sender<()>>,
    /// Cancelled when the switch goes off.
    off: CancellationToken,
}

/// The order in which a callback is sent.
enum Turn {
    Now,
    AfterNext(Hold),
    /// Sent ahead of another callback. The sender is dropped once this callback is answered or
    /// given up, which releases the other one.
    AheadOf(oneshot::Sender<()>),
}

/// Holds a callback back until the next one is done, or the switch is off.
struct Hold {
    /// Completes when its sender is dropped.
    next: oneshot::Receiver<()>,
    off: CancellationToken,
}

impl Notifier {
    /// Sends until `stop`.
    pub fn new(sender: Sender, stop: CancellationToken) -> Self {
        let tasks = TaskTracker::new();
        // A closed tracker can be waited for at any time and still accepts tasks.
        tasks.close();
        Self {
            sender,
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            permits: Permits::new(),
            reorder: Mutex::default(),
            log: Mutex::default(),
            tasks,
            stop,
        }
    }

    /// Queues a callback with the copies, the delay or the loss that the switches ask for.
    /// `reorder` is taken from [`Self::set_reorder`], not from `switches`.
    pub fn queue(self: &Arc<Self>, callback: Callback, switches: &Switches) {
        let order_id = callback.order_id();
        if switches.lose {
            tracing::info!(order_id, "callback dropped by the switch");
            return;
        }
        let Ok(permits) = self.waiting.clone().try_acquire_many_owned(switches.copies()) else {
            tracing::warn!(order_id, "callback dropped: too many callbacks waiting");
            return;
        };
        let turn = self.turn();
        let (this, delay, copies) = (self.clone(), switches.callback_delay(), switches.copies());
        let sending = async move {
            sleep(delay).await;
            this.send_in_turn(Arc::new(callback), copies, turn).await;
            drop(permits);
        };
        self.tasks.spawn(self.stop.clone().run_until_cancelled_owned(sending));
    }

    /// Switches `reorder`: while it is on, every other callback is held back. Switching it off
    /// sends the callbacks that are held back.
    pub fn set_reorder(&self, on: bool) {
        let mut reorder = lock(&self.reorder);
        if on {
            reorder.get_or_insert_default();
        } else if let Some(ended) = reorder.take() {
            ended.off.cancel();
        }
    }

    /// The latest attempts, oldest first.
    pub fn log(&self) -> Vec<Attempt> {
        lock(&self.log).iter().cloned().collect()
    }

    /// Completes when no callback is in flight.
    pub async fn idle(&self) {
        self.tasks.wait().await;
    }

    /// Holds back the first of two callbacks and sends the second ahead of it. Runs under the
    /// lock of the switch, so that no callback is held back once the switch is off.
    fn turn(&self) -> Turn {
        let mut reorder = lock(&self.reorder);
        let Some(reorder) = reorder.as_mut() else { return Turn::Now };
        match reorder.held.take() {
            // A closed one waited for too long and has been sent.
            Some(held) if !held.is_closed() => Turn::AheadOf(held),
            _ => {
                let (held, next) = oneshot::channel();
                reorder.held = Some(held);
                Turn::AfterNext(Hold { next, off: reorder.off.clone() })
            }
        }
    }

    async fn send_in_turn(self: Arc<Self>, callback: Arc<Callback>, copies: u32, turn: Turn) {
        let ahead_of = match turn {
            Turn::Now => None,
            Turn::AheadOf(held) => Some(held),
            Turn::AfterNext(hold) => {
                hold.wait().await;
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
        let answered = timeout(MAX_TIME, self.try_until_answered(&callback)).await;
        if answered != Ok(true) {
            tracing::warn!(order_id = callback.order_id(), "callback abandoned");
        }
    }

    /// Returns whether billing answered.
    async fn try_until_answered(&self, callback: &Callback) -> bool {
        let mut pauses = BACKOFF.build();
        for number in 1..=MAX_ATTEMPTS {
            let Ok(permit) = self.permits.take(callback.destination()).await else {
                return false;
            };
            let answer = self.sender.send(callback).await;
            drop(permit);
            let is_final = answer.is_final();
            self.record(callback, number, answer);
            if is_final {
                return true;
            }
            let Some(pause) = pauses.next() else { return false };
            sleep(pause).await;
        }
        false
    }

    fn record(&self, callback: &Callback, number: u32, answer: Answer) {
        let (order_id, status) = (callback.order_id(), callback.status());
        match (answer.is_final(), number) {
            (true, _) => tracing::info!(order_id, status, number, ?answer, "callback answered"),
            (false, 1) => tracing::warn!(order_id, status, ?answer, "callback not answered; retrying"),
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

impl Hold {
    async fn wait(self) {
        tokio::select! {
            _ = self.next => {}
            () = self.off.cancelled() => {}
            () = sleep(MAX_HOLD) => {}
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::{net::TcpListener, time::Instant};

    use super::*;
    use crate::{
        data::payment::proto::{CreatePaymentRequest, PaymentMethod},
        sandbox::{
            callback::SignsFor,
            payment::{PaymentOutcome, SandboxOrder, SandboxPayment},
        },
    };

    fn notifier() -> Arc<Notifier> {
        Arc::new(Notifier::new(Sender::new(None, SignsFor::default()), CancellationToken::new()))
    }

    fn callback(notify_url: String) -> Callback {
        let request = CreatePaymentRequest {
            order_id: "o".into(),
            amount: 1,
            currency: "CNY".into(),
            method: PaymentMethod::Stripe.into(),
            notify_url,
            ..Default::default()
        };
        let payment = SandboxPayment {
            id: "p".into(),
            order: Arc::new(SandboxOrder::parse(request).unwrap()),
            outcome: None,
            refunds: Vec::new(),
        };
        Callback::new(&payment, PaymentOutcome::Success, &Switches::default())
    }

    fn held(turn: Turn) -> Hold {
        match turn {
            Turn::AfterNext(hold) => hold,
            Turn::Now | Turn::AheadOf(_) => panic!("the callback is not held back"),
        }
    }

    #[tokio::test]
    async fn with_reorder_the_first_of_two_callbacks_waits_for_the_second() {
        let notifier = notifier();
        assert!(matches!(notifier.turn(), Turn::Now));
        notifier.set_reorder(true);
        let mut first = Box::pin(held(notifier.turn()).wait());
        let second = notifier.turn();
        assert!(matches!(second, Turn::AheadOf(_)));
        // A second "on" changes nothing.
        notifier.set_reorder(true);
        assert!((&mut first).now_or_never().is_none());
        drop(second);
        assert!(first.now_or_never().is_some());
    }

    #[tokio::test]
    async fn without_reorder_no_callback_is_held_back() {
        let notifier = notifier();
        notifier.set_reorder(true);
        let paired = held(notifier.turn());
        let _not_answered_yet = notifier.turn();
        let alone = held(notifier.turn());
        notifier.set_reorder(false);
        assert!(paired.wait().now_or_never().is_some());
        assert!(alone.wait().now_or_never().is_some());
        // Also a callback whose switches were read before.
        assert!(matches!(notifier.turn(), Turn::Now));
        // A callback from before the pause is not paired with a new one.
        notifier.set_reorder(true);
        assert!(held(notifier.turn()).wait().now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_callback_is_held_back_for_a_minute_at_most() {
        let notifier = notifier();
        notifier.set_reorder(true);
        let first = held(notifier.turn());
        let _not_answered_yet = notifier.turn();
        let begun = Instant::now();
        first.wait().await;
        assert_eq!(begun.elapsed().as_secs(), 60);
        let alone = held(notifier.turn());
        alone.wait().await;
        assert!(matches!(notifier.turn(), Turn::AfterNext(_)), "the callback before it has been sent");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_callback_is_given_up_after_2000_attempts() {
        let (notifier, begun) = (notifier(), Instant::now());
        notifier.queue(callback("http://127.0.0.1:1/callback".into()), &Switches::default());
        notifier.idle().await;
        let log = notifier.log();
        assert_eq!((log.len(), log[1_999].number), (2_000, 2_000));
        assert!(begun.elapsed() < MAX_TIME);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unanswered_callback_is_given_up_after_6_hours() {
        let (notifier, begun) = (notifier(), Instant::now());
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/callback", silent.local_addr().unwrap());
        notifier.queue(callback(url), &Switches::default());
        notifier.idle().await;
        assert_eq!(begun.elapsed().as_secs(), MAX_TIME.as_secs());
        assert!(notifier.log().len() < 2_000);
    }
}
