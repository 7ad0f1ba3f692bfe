//! Tells billing what became of payments, each callback again and again until it is
//! answered, or given up after 2,000 attempts or 6 hours. They go out side by side, those of
//! one payment too: billing must do with any order. One waits for others only where the
//! switch `reorder` says so, or when too many attempts are under way ([`super::places`]).
//! What was not sent when the sandbox stops is lost.

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
    permits::Permits,
    switches::Switches,
};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Of one callback. A billing that refuses connections has it for about an hour.
const MAX_ATTEMPTS: u32 = 2_000;
/// Of one callback, waits for a place included; an attempt that nobody answers takes ten
/// seconds.
const MAX_TIME: Duration = Duration::from_hours(6);
/// Copies of callbacks that are not answered yet; beyond these, callbacks are lost.
const MAX_WAITING: usize = 100_000;
/// How long a callback is held back at most; then it goes, whatever became of the next one.
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
    permits: Permits,
    /// While the switch is on.
    reorder: Mutex<Option<Reorder>>,
    log: Mutex<VecDeque<Attempt>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// From one switching on to the next switching off.
#[derive(Default)]
struct Reorder {
    /// The callback that is held back and has no next one yet.
    held: Option<oneshot::Sender<()>>,
    /// Cancelled when it is switched off.
    off: CancellationToken,
}

/// A callback's place in the order of things.
enum Turn {
    Now,
    AfterNext(Hold),
    /// To be dropped when this one has been answered or given up: it lets go of the other.
    AheadOf(oneshot::Sender<()>),
}

/// What a callback is held back by.
struct Hold {
    /// Ends when the other end is dropped.
    next: oneshot::Receiver<()>,
    off: CancellationToken,
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
            permits: Permits::new(),
            reorder: Mutex::default(),
            log: Mutex::default(),
            tasks,
            stop,
        }
    }

    /// Queues a callback, and what the switches make of it. Whether it is held back is for
    /// [`Self::set_reorder`] to say.
    pub fn queue(self: &Arc<Self>, callback: Callback, switches: &Switches) {
        let order_id = callback.order_id();
        if switches.lose {
            tracing::info!(order_id, "the callback is lost, as the switch says");
            return;
        }
        let Ok(permits) = self.waiting.clone().try_acquire_many_owned(switches.copies()) else {
            tracing::warn!(order_id, "the callback is lost: too many others wait");
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

    /// Whether every other callback is held back. Switched off, those that are go.
    pub fn set_reorder(&self, on: bool) {
        let mut reorder = lock(&self.reorder);
        if on {
            reorder.get_or_insert_default();
        } else if let Some(ended) = reorder.take() {
            ended.off.cancel();
        }
    }

    /// The latest attempts, the oldest first.
    pub fn log(&self) -> Vec<Attempt> {
        lock(&self.log).iter().cloned().collect()
    }

    /// Completes when no callback is under way.
    pub async fn idle(&self) {
        self.tasks.wait().await;
    }

    /// Of two callbacks the first is held back, and the second goes ahead of it. Decided
    /// under the lock that the switch takes, so that none is held back once it is off.
    fn turn(&self) -> Turn {
        let mut reorder = lock(&self.reorder);
        let Some(reorder) = reorder.as_mut() else { return Turn::Now };
        match reorder.held.take() {
            // Closed: it waited for too long, and has gone.
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
            tracing::warn!(order_id = callback.order_id(), "gave up on the callback");
        }
    }

    /// Whether it was answered.
    async fn try_until_answered(&self, callback: &Callback) -> bool {
        let mut pause = FIRST_PAUSE;
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
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        false
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
        sandbox::payment::{PaymentOutcome, SandboxOrder, SandboxPayment},
    };

    fn notifier() -> Arc<Notifier> {
        Arc::new(Notifier::new(Sender::new(None), CancellationToken::new()))
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
        let payment =
            SandboxPayment { id: "p".into(), order: Arc::new(SandboxOrder::parse(request).unwrap()), outcome: None };
        Callback::new(&payment, PaymentOutcome::Success, &Switches::default())
    }

    fn held(turn: Turn) -> Hold {
        match turn {
            Turn::AfterNext(hold) => hold,
            Turn::Now | Turn::AheadOf(_) => panic!("it is not held back"),
        }
    }

    #[tokio::test]
    async fn of_two_callbacks_the_first_waits_for_the_second_while_the_switch_is_on() {
        let notifier = notifier();
        assert!(matches!(notifier.turn(), Turn::Now));
        notifier.set_reorder(true);
        let mut first = Box::pin(held(notifier.turn()).wait());
        let second = notifier.turn();
        assert!(matches!(second, Turn::AheadOf(_)));
        // Switched on again, it goes on.
        notifier.set_reorder(true);
        assert!((&mut first).now_or_never().is_none());
        drop(second);
        assert!(first.now_or_never().is_some());
    }

    #[tokio::test]
    async fn none_is_held_back_once_the_switch_is_off() {
        let notifier = notifier();
        notifier.set_reorder(true);
        let paired = held(notifier.turn());
        let _not_answered_yet = notifier.turn();
        let alone = held(notifier.turn());
        notifier.set_reorder(false);
        assert!(paired.wait().now_or_never().is_some());
        assert!(alone.wait().now_or_never().is_some());
        // Even where its switches were read before.
        assert!(matches!(notifier.turn(), Turn::Now));
        // Nor does one of before take part when it is on again.
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
        assert!(matches!(notifier.turn(), Turn::AfterNext(_)), "the one before it has gone");
    }

    #[tokio::test(start_paused = true)]
    async fn a_callback_that_is_always_refused_is_given_up_after_so_many_attempts() {
        let (notifier, begun) = (notifier(), Instant::now());
        notifier.queue(callback("http://127.0.0.1:1/callback".into()), &Switches::default());
        notifier.idle().await;
        let log = notifier.log();
        assert_eq!((log.len(), log[1_999].number), (2_000, 2_000));
        assert!(begun.elapsed() < MAX_TIME);
    }

    #[tokio::test(start_paused = true)]
    async fn a_callback_that_nobody_answers_is_given_up_after_so_much_time() {
        let (notifier, begun) = (notifier(), Instant::now());
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/callback", silent.local_addr().unwrap());
        notifier.queue(callback(url), &Switches::default());
        notifier.idle().await;
        assert_eq!(begun.elapsed().as_secs(), MAX_TIME.as_secs());
        assert!(notifier.log().len() < 2_000);
    }
}
