//! The activity of one connection, and the steps that its limits ask for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::limits::ListenerLimits;

/// Deadline of a TLS handshake, of the first byte, and of all headers of an HTTP/1.1 request.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Time without an open request after which a connection that drains is closed. A request that was
/// under way when the client learned of the drain arrives within it.
const CLOSE_GRACE: Duration = Duration::from_secs(2);
/// Longest time of a connection that drains. Longer than the longest request: a metered stream ends
/// after 24 hours.
const LONGEST_DRAIN: Duration = Duration::from_hours(25);

const NEVER: u64 = u64::MAX;

/// The activity of one connection. Times are in milliseconds since its begin.
pub struct Activity {
    begun: Instant,
    open_requests: AtomicUsize,
    /// The end of the last request; valid while none is open.
    idle_since: AtomicU64,
    /// The first byte of a head that has not arrived in full; HTTP/1.1 alone.
    head_since: AtomicU64,
    /// The first byte that the client does not take.
    blocked_since: AtomicU64,
    is_http1: AtomicBool,
    /// Whether replies of HTTP/1.1 end the connection.
    closes: AtomicBool,
}

/// A limit that ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Head,
    Idle,
    Write,
    Age,
    /// The connection had too many refused calls.
    Refusals,
    /// The server stops, or the connection has drained.
    Drained,
}

/// The next step of the owner of a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// No limit is reached before this time has passed.
    Wait(Duration),
    /// Take no further requests.
    Drain(End),
    Close(End),
}

/// The limits of one connection, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    idle: u64,
    write: u64,
    age: u64,
}

impl Rules {
    pub fn of(limits: &ListenerLimits) -> Self {
        Self {
            idle: millis(limits.idle_timeout),
            write: millis(limits.write_timeout),
            age: jittered(millis(limits.max_connection_age), fastrand::u64(..)),
        }
    }

    /// For a connection that reaches health alone: it answers one request, and goes.
    pub fn beyond_limit() -> Self {
        Self { idle: 1_000, write: 1_000, age: 5_000 }
    }
}

/// From nine to eleven tenths of `age`. Connections that were opened at once, after a restart of a
/// balancer for example, are not closed at once.
fn jittered(age: u64, random: u64) -> u64 {
    age.saturating_mul(900 + random % 201) / 1_000
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(NEVER)
}

impl Activity {
    pub fn begin() -> Arc<Self> {
        Arc::new(Self {
            begun: Instant::now(),
            open_requests: AtomicUsize::new(0),
            idle_since: AtomicU64::new(0),
            head_since: AtomicU64::new(NEVER),
            blocked_since: AtomicU64::new(NEVER),
            is_http1: AtomicBool::new(false),
            closes: AtomicBool::new(false),
        })
    }

    /// Notes that the connection speaks HTTP/1.1, and that its first bytes have arrived.
    pub fn speaks_http1(&self) {
        self.head_since.store(self.now(), Relaxed);
        self.is_http1.store(true, Relaxed);
    }

    pub fn is_http1(&self) -> bool {
        self.is_http1.load(Relaxed)
    }

    pub fn close_after_reply(&self) {
        self.closes.store(true, Relaxed);
    }

    pub fn closes_after_reply(&self) -> bool {
        self.closes.load(Relaxed)
    }

    /// Notes bytes of the client.
    pub fn read(&self) {
        if self.is_http1() && self.open_requests.load(Relaxed) == 0 && self.head_since.load(Relaxed) == NEVER {
            self.head_since.store(self.now(), Relaxed);
        }
    }

    /// Notes whether the client takes no more bytes at present.
    pub fn set_blocked(&self, is_blocked: bool) {
        if is_blocked != (self.blocked_since.load(Relaxed) != NEVER) {
            self.blocked_since.store(if is_blocked { self.now() } else { NEVER }, Relaxed);
        }
    }

    /// Notes a request that is open until the result is dropped.
    pub fn open(self: &Arc<Self>) -> OpenRequest {
        self.open_requests.fetch_add(1, Relaxed);
        self.head_since.store(NEVER, Relaxed);
        OpenRequest(self.clone())
    }

    /// The time now, for [`Self::step`].
    pub fn now(&self) -> u64 {
        millis(self.begun.elapsed())
    }

    /// The step at `now`. `drained` is the begin of the drain, and `is_aged` says that the age was
    /// acted upon.
    pub fn step(&self, rules: Rules, drained: Option<u64>, is_aged: bool) -> Step {
        let now = self.now();
        let is_idle = self.open_requests.load(Relaxed) == 0;
        let since = |since: &AtomicU64| Some(since.load(Relaxed)).filter(|since| *since != NEVER);
        let idle_since = is_idle.then(|| self.idle_since.load(Relaxed));
        // The time from which each limit counts; `None` while it does not apply. It may begin to apply
        // right after this look, so a limit is looked at again after its whole time.
        let mut limits = vec![
            (since(&self.blocked_since), rules.write, Step::Close(End::Write)),
            (since(&self.head_since).filter(|_| is_idle), millis(HEADER_TIMEOUT), Step::Close(End::Head)),
        ];
        match drained {
            None => {
                limits.push((idle_since, rules.idle, Step::Drain(End::Idle)));
                if !is_aged {
                    limits.push((Some(0), rules.age, Step::Drain(End::Age)));
                }
            }
            Some(drained) => {
                let quiet_since = idle_since.map(|idle| idle.max(drained));
                limits.push((quiet_since, millis(CLOSE_GRACE), Step::Close(End::Drained)));
                limits.push((Some(drained), millis(LONGEST_DRAIN), Step::Close(End::Age)));
            }
        }
        let mut wait = NEVER;
        for (since, limit, step) in limits {
            let due = since.unwrap_or(now).saturating_add(limit);
            if due <= now {
                return step;
            }
            wait = wait.min(due - now);
        }
        Step::Wait(Duration::from_millis(wait))
    }
}

/// A request from its head to the last byte of its reply.
pub struct OpenRequest(Arc<Activity>);

impl OpenRequest {
    /// Ends a connection of HTTP/1.1 with the next reply.
    pub fn close_connection(&self) {
        self.0.close_after_reply();
    }

    pub fn closes_connection(&self) -> bool {
        self.0.closes_after_reply()
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.idle_since.store(self.0.now(), Relaxed);
        self.0.open_requests.fetch_sub(1, Relaxed);
    }
}

impl End {
    /// The label of the metric; `None` for an end that no limit caused.
    pub fn reason(self) -> Option<&'static str> {
        match self {
            End::Head => Some("head"),
            End::Idle => Some("idle"),
            End::Write => Some("write"),
            End::Age => Some("age"),
            End::Refusals => Some("refusals"),
            End::Drained => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { idle: 60_000, write: 30_000, age: 600_000 };

    fn wait(millis: u64) -> Step {
        Step::Wait(Duration::from_millis(millis))
    }

    #[tokio::test(start_paused = true)]
    async fn each_limit_is_due_after_its_time_and_not_before() {
        let pass = |millis| tokio::time::advance(Duration::from_millis(millis));
        let activity = Activity::begin();
        assert_eq!(activity.step(RULES, None, false), wait(10_000), "a head could begin now");
        pass(59_999).await;
        assert_eq!(activity.step(RULES, None, false), wait(1));
        pass(1).await;
        assert_eq!(activity.step(RULES, None, false), Step::Drain(End::Idle));
        let open = activity.open();
        assert_eq!(activity.step(RULES, None, false), wait(10_000), "an open request is not idle");
        activity.set_blocked(true);
        pass(1_000).await;
        activity.set_blocked(true);
        pass(29_000).await;
        assert_eq!(activity.step(RULES, None, false), Step::Close(End::Write));
        activity.set_blocked(false);
        assert_eq!(activity.step(RULES, None, false), wait(10_000));
        pass(510_000).await;
        assert_eq!(activity.step(RULES, None, false), Step::Drain(End::Age));
        assert_eq!(activity.step(RULES, None, true), wait(10_000));
        let drained = Some(activity.now());
        pass(24 * 3_600_000).await;
        assert!(matches!(activity.step(RULES, drained, true), Step::Wait(_)), "an open request may go on");
        drop(open);
        assert_eq!(activity.step(RULES, drained, true), wait(2_000));
        pass(2_000).await;
        assert_eq!(activity.step(RULES, drained, true), Step::Close(End::Drained));
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_a_deadline_and_a_pause_between_requests_has_not() {
        let pass = |millis| tokio::time::advance(Duration::from_millis(millis));
        let activity = Activity::begin();
        activity.speaks_http1();
        pass(10_000).await;
        assert_eq!(activity.step(RULES, None, false), Step::Close(End::Head));
        drop(activity.open());
        pass(10_000).await;
        assert_eq!(activity.step(RULES, None, false), wait(10_000));
        activity.read();
        pass(9_999).await;
        activity.read();
        assert_eq!(activity.step(RULES, None, false), wait(1));
    }

    #[test]
    fn ages_differ_by_a_tenth_at_most() {
        assert_eq!((jittered(1_000, 0), jittered(1_000, 200), jittered(1_000, 201)), (900, 1_100, 900));
    }
}
