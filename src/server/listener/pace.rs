//! Slows the retries of refused calls. A connection with many of them gets further refusals late, so a caller
//! that repeats refused calls without a pause takes no core. Other replies of the connection do not wait.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};

use super::limits::ListenerLimits;

/// The time in which the refused calls of a connection come back.
const PERIOD: Duration = Duration::from_secs(10);

/// The rule of one port.
pub struct PaceRule {
    /// Refused calls of a connection at once, whose answers do not wait.
    most: u64,
    /// The time in microseconds after which a connection has one more.
    step_us: u64,
    pause: Duration,
    /// The answers of the port that may wait at once. They take memory.
    held: Semaphore,
}

/// The refused calls of one connection.
pub struct Pace {
    rule: Arc<PaceRule>,
    began: Instant,
    /// The time in microseconds since the begin at which all its refused calls are forgotten.
    forgotten_at: AtomicU64,
}

impl PaceRule {
    pub fn new(limits: &ListenerLimits) -> Arc<Self> {
        let most = u64::try_from(limits.refused_calls).unwrap_or(u64::MAX).max(1);
        let step_us = (micros(PERIOD) / most).max(1);
        Arc::new(Self { most, step_us, pause: limits.refusal_pause, held: Semaphore::new(limits.held_refusals) })
    }

    /// For one connection.
    pub fn begin(self: &Arc<Self>) -> Arc<Pace> {
        Arc::new(Pace { rule: self.clone(), began: Instant::now(), forgotten_at: AtomicU64::new(0) })
    }
}

impl Pace {
    /// Counts a refused call, and waits before its answer if the connection has too many of them.
    pub async fn refuse(&self) {
        if self.count() {
            return;
        }
        let Ok(_held) = self.rule.held.try_acquire() else { return };
        sleep(self.rule.pause).await;
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
    use super::*;

    const PAUSE: Duration = Duration::from_secs(7);

    fn rule(refused_calls: usize, held_refusals: usize) -> Arc<PaceRule> {
        PaceRule::new(&ListenerLimits { refused_calls, refusal_pause: PAUSE, held_refusals, ..Default::default() })
    }

    /// The time that the answer to a refused call waits. The clock is that of the test.
    async fn waits(pace: &Pace) -> Duration {
        let asked = Instant::now();
        pace.refuse().await;
        asked.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn answers_wait_beyond_the_refused_calls_of_a_connection_which_come_back() {
        let rule = rule(2, 10);
        let (pace, other) = (rule.begin(), rule.begin());
        for _ in 0..2 {
            assert!(waits(&pace).await.is_zero());
        }
        assert!(waits(&pace).await >= PAUSE);
        assert!(waits(&other).await.is_zero(), "another connection has its own");
        sleep(PERIOD).await;
        for _ in 0..2 {
            assert!(waits(&pace).await.is_zero());
        }
        assert!(waits(&pace).await >= PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_bounded_number_of_answers_waits() {
        let pace = rule(1, 1).begin();
        pace.refuse().await;
        let (held, beyond) = tokio::join!(waits(&pace), waits(&pace));
        assert!(held >= PAUSE && beyond.is_zero());
    }
}
