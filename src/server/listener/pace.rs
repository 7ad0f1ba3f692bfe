//! Slows the retries of refused calls. A connection with many of them gets further refusals late, so a caller
//! that repeats refused calls without a pause takes no core. Other replies of the connection do not wait. A
//! connection whose refused calls go on nevertheless ends.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{handle::Connection, limits::ListenerLimits};
use crate::biz::limits::lines::Lines;

/// The time in which the refused calls of a connection come back.
const PERIOD: Duration = Duration::from_secs(10);
/// A connection ends after this many times its refused calls. A client that resets its calls gets no answer that
/// waits, and only this number stops it.
const TIMES_BEFORE_END: u64 = 10;
/// A connection is closed after this many refused calls since its end began. A client that follows the protocol
/// sends no more than it had open, which is about half.
const AFTER_END: u64 = 2_048;

/// The rule of one port.
pub struct PaceRule {
    /// Refused calls of a connection at once, whose answers do not wait.
    most: u64,
    /// The time in microseconds after which a connection has one more.
    step_us: u64,
    pause: Duration,
    /// The answers of the port that may wait at once. They take memory.
    held: Semaphore,
    /// The answers of one connection that may wait at once.
    held_per_connection: usize,
    lines: Lines,
    count_held: Box<dyn Fn() + Send + Sync>,
}

/// The refused calls of one connection.
pub struct Pace {
    rule: Arc<PaceRule>,
    peer: SocketAddr,
    connection: Connection,
    ends: Ends,
    began: Instant,
    /// The time in microseconds since the start at which all its refused calls are forgotten.
    forgotten_at: AtomicU64,
    /// The refused calls beyond those whose answers do not wait.
    beyond: AtomicU64,
    /// Those of them since the connection takes no further requests.
    after_end: AtomicU64,
    /// The answers that may wait.
    held: Semaphore,
}

/// The ends of a connection by its refused calls.
#[derive(Clone, Default)]
pub struct Ends {
    /// The connection takes no further requests.
    pub drain: CancellationToken,
    /// The client goes on, so the connection is closed.
    pub close: CancellationToken,
}

impl PaceRule {
    /// `count_held` counts an answer that waits.
    pub fn new(limits: &ListenerLimits, count_held: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        let most = u64::try_from(limits.refused_calls).unwrap_or(u64::MAX).max(1);
        Arc::new(Self {
            most,
            step_us: (micros(PERIOD) / most).max(1),
            pause: limits.refusal_pause,
            held: Semaphore::new(limits.held_refusals),
            held_per_connection: limits.held_refusals_per_connection,
            lines: Lines::default(),
            count_held: Box::new(count_held),
        })
    }

    /// For one connection.
    pub fn begin(self: &Arc<Self>, peer: SocketAddr, connection: Connection) -> Arc<Pace> {
        Arc::new(Pace {
            rule: self.clone(),
            peer,
            connection,
            ends: Ends::default(),
            began: Instant::now(),
            forgotten_at: AtomicU64::new(0),
            beyond: AtomicU64::new(0),
            after_end: AtomicU64::new(0),
            held: Semaphore::new(self.held_per_connection),
        })
    }

    /// From a half to three halves of the pause. Calls that were refused together are not answered together.
    fn pause(&self) -> Duration {
        self.pause.saturating_mul(fastrand::u32(500..=1_500)) / 1_000
    }
}

impl Pace {
    pub fn ends(&self) -> Ends {
        self.ends.clone()
    }

    /// Whether the answers of the connection announce its end.
    pub fn is_ended(&self) -> bool {
        self.ends.drain.is_cancelled()
    }

    /// Counts a refused call. If the connection has too many of them, this waits before the answer, or ends the
    /// connection. The end of the connection ends the waits.
    pub async fn refuse(&self) {
        if self.count() {
            return;
        }
        let number = self.beyond.fetch_add(1, Relaxed) + 1;
        if number == 1 {
            self.log();
        }
        if self.is_ended() || self.connection.is_drained() {
            if self.after_end.fetch_add(1, Relaxed) + 1 >= AFTER_END {
                self.ends.close.cancel();
            }
            return;
        }
        let held = self.hold().filter(|_| number <= self.rule.most.saturating_mul(TIMES_BEFORE_END));
        let Some(_held) = held else {
            self.ends.drain.cancel();
            return;
        };
        (self.rule.count_held)();
        tokio::select! {
            () = sleep(self.rule.pause()) => {}
            () = self.connection.drained() => {}
        }
    }

    /// Room for an answer that waits; `None` if the connection or the port has too many of them.
    fn hold(&self) -> Option<(SemaphorePermit<'_>, SemaphorePermit<'_>)> {
        Some((self.held.try_acquire().ok()?, self.rule.held.try_acquire().ok()?))
    }

    fn log(&self) {
        if let Some(left_out) = self.rule.lines.admit() {
            tracing::warn!(peer = %self.peer, left_out, "answers to the refused calls of a connection wait");
        }
    }

    /// Whether the call is one of those whose answers do not wait.
    fn count(&self) -> bool {
        let PaceRule { most, step_us, .. } = *self.rule;
        let now_us = micros(self.began.elapsed());
        let next = |forgotten_at: u64| {
            let forgotten_at = forgotten_at.max(now_us).saturating_add(step_us);
            (forgotten_at <= now_us.saturating_add(step_us.saturating_mul(most))).then_some(forgotten_at)
        };
        self.forgotten_at.fetch_update(Relaxed, Relaxed, next).is_ok()
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use futures_util::FutureExt;

    use super::*;

    const PAUSE: Duration = Duration::from_secs(7);

    const LIMITS: ListenerLimits = ListenerLimits {
        refused_calls: 1,
        refusal_pause: PAUSE,
        held_refusals: 10,
        held_refusals_per_connection: 10,
        ..ListenerLimits::DEFAULT
    };

    fn begin(rule: &Arc<PaceRule>) -> Arc<Pace> {
        rule.begin("192.0.2.1:1".parse().unwrap(), Connection::new(None))
    }

    fn pace(limits: &ListenerLimits) -> Arc<Pace> {
        begin(&PaceRule::new(limits, || {}))
    }

    /// The time that the answer to a refused call waits. The clock is that of the test.
    async fn waits(pace: &Pace) -> Duration {
        let asked = Instant::now();
        pace.refuse().await;
        asked.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn answers_wait_beyond_the_refused_calls_of_a_connection_which_come_back() {
        let counted = Arc::<AtomicUsize>::default();
        let count = counted.clone();
        let limits = ListenerLimits { refused_calls: 2, ..LIMITS };
        let rule = PaceRule::new(&limits, move || {
            count.fetch_add(1, Relaxed);
        });
        let (pace, other) = (begin(&rule), begin(&rule));
        for _ in 0..2 {
            assert!(waits(&pace).await.is_zero());
        }
        assert!(waits(&pace).await >= PAUSE / 2);
        assert!(waits(&other).await.is_zero(), "another connection has its own");
        sleep(PERIOD).await;
        for _ in 0..2 {
            assert!(waits(&pace).await.is_zero());
        }
        assert!(waits(&pace).await >= PAUSE / 2);
        assert_eq!(counted.load(Relaxed), 2);
        assert!(!pace.is_ended());
    }

    /// Answers that end their waits together are a burst.
    #[tokio::test(start_paused = true)]
    async fn waits_differ_and_are_bounded() {
        let pace = pace(&LIMITS);
        pace.refuse().await;
        let waited = tokio::join!(waits(&pace), waits(&pace), waits(&pace), waits(&pace));
        let mut waited = [waited.0, waited.1, waited.2, waited.3];
        waited.sort();
        assert!(PAUSE / 2 <= waited[0] && waited[3] <= PAUSE * 3 / 2 + Duration::from_millis(1), "{waited:?}");
        assert!(waited[0] < waited[3], "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_ends_if_its_port_has_no_room_for_an_answer_that_waits() {
        let rule = PaceRule::new(&ListenerLimits { held_refusals: 1, ..LIMITS }, || {});
        let (first, second) = (begin(&rule), begin(&rule));
        first.refuse().await;
        second.refuse().await;
        let (held, beyond) = tokio::join!(waits(&first), waits(&second));
        assert!(held >= PAUSE / 2 && beyond.is_zero());
        assert!(second.is_ended() && !first.is_ended());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_ends_if_too_many_of_its_answers_wait_and_leaves_the_room_to_others() {
        let rule =
            PaceRule::new(&ListenerLimits { held_refusals: 2, held_refusals_per_connection: 1, ..LIMITS }, || {});
        let (first, second) = (begin(&rule), begin(&rule));
        first.refuse().await;
        second.refuse().await;
        let (held, beyond, other) = tokio::join!(waits(&first), waits(&first), waits(&second));
        assert!(held >= PAUSE / 2 && beyond.is_zero() && other >= PAUSE / 2);
        assert!(first.is_ended() && !second.is_ended());
    }

    /// A client that resets its calls frees the room of their answers.
    #[tokio::test(start_paused = true)]
    async fn a_connection_ends_after_many_refused_calls_and_is_closed_if_they_go_on() {
        let pace = pace(&ListenerLimits { refused_calls: 3, ..LIMITS });
        for _ in 0..3 + 3 * TIMES_BEFORE_END {
            let _ = pace.refuse().now_or_never();
        }
        assert!(!pace.is_ended());
        let _ = pace.refuse().now_or_never();
        assert!(pace.is_ended());
        for _ in 1..AFTER_END {
            assert!(pace.refuse().now_or_never().is_some());
        }
        assert!(!pace.ends.close.is_cancelled());
        assert!(pace.refuse().now_or_never().is_some());
        assert!(pace.ends.close.is_cancelled());
    }

    /// A stop does not wait for the answers.
    #[tokio::test(start_paused = true)]
    async fn no_answer_waits_longer_than_its_connection_takes_requests() {
        let pace = pace(&LIMITS);
        pace.refuse().await;
        let drain = async { pace.connection.drain() };
        assert!(tokio::join!(waits(&pace), drain).0.is_zero());
        for _ in 0..AFTER_END {
            assert!(waits(&pace).await.is_zero());
        }
        assert!(pace.ends.close.is_cancelled(), "its refused calls count as those after its end");
    }
}
