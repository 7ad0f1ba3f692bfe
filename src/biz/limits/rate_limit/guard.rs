//! Chooses the limiter: the shared one of all processes or, if it is unavailable or not configured,
//! the local one of this process.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{RateLimiter, RateLimits};
use crate::biz::values::{
    calendar::Clock,
    error::Error,
    ids::{ApiKeyId, UserId},
    limit::Limit,
};

/// Microseconds after a failed request for which the shared limiter counts as unavailable.
const MOMENT: u64 = 1_000_000;

/// The value of [`RateGuard::failed_at`] before the first failure.
const NEVER: u64 = 0;

/// Decides whether a request is within the rate limits.
pub struct RateGuard {
    limits: RateLimits,
    local: Arc<dyn RateLimiter>,
    shared: Option<Arc<dyn RateLimiter>>,
    clock: Arc<dyn Clock>,
    started: Instant,
    /// Time of the last failure of the shared limiter, in microseconds since `started`.
    failed_at: AtomicU64,
}

impl RateGuard {
    /// `local` and `shared` must apply the same `limits`.
    pub fn new(
        limits: RateLimits,
        local: Arc<dyn RateLimiter>,
        shared: Option<Arc<dyn RateLimiter>>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { limits, local, shared, started: clock.instant(), clock, failed_at: AtomicU64::new(NEVER) }
    }

    /// Counts a request of a user, and of the API key if the request has one. Without limits no
    /// limiter is called.
    ///
    /// # Errors
    /// [`Error::InsufficientQuota`] with [`Limit::Rate`]: a limit is reached, and nothing was counted.
    pub async fn take(&self, user: &UserId, key: Option<&ApiKeyId>) -> Result<(), Error> {
        let key = key.filter(|_| !self.limits.api_key.is_empty());
        if key.is_none() && self.limits.user.is_empty() {
            return Ok(());
        }
        match self.count(user, key).await {
            Some(retry_after) => Err(Error::InsufficientQuota(Limit::Rate { retry_after })),
            None => Ok(()),
        }
    }

    /// Whether the local limiter counts at the moment although a shared one is configured.
    pub fn is_local(&self) -> bool {
        let failed_at = self.failed_at.load(Ordering::Relaxed);
        failed_at != NEVER && self.micros() < failed_at.saturating_add(MOMENT)
    }

    /// Asks the shared limiter for each request. If one of several Redis nodes is down, the limiter
    /// still counts for the keys of the others, and fails at once for its keys.
    async fn count(&self, user: &UserId, key: Option<&ApiKeyId>) -> Option<Duration> {
        if let Some(shared) = &self.shared {
            match shared.take(user, key).await {
                Ok(answer) => return answer,
                Err(error) => {
                    if !self.is_local() {
                        tracing::warn!(%error, "shared rate limiter unavailable; counting per process");
                    }
                    self.failed_at.store(self.micros().max(NEVER + 1), Ordering::Relaxed);
                }
            }
        }
        self.local.take(user, key).await.unwrap_or_else(|error| {
            // An outage of the limiters must not refuse requests.
            tracing::error!(%error, "rate limit not checked; request admitted");
            None
        })
    }

    fn micros(&self) -> u64 {
        let elapsed = self.clock.instant().saturating_duration_since(self.started);
        u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32};

    use async_trait::async_trait;
    use chrono::{DateTime, Utc};

    use super::*;
    use crate::biz::{limits::rate_limit::Rates, values::error::StoreError};

    /// Refuses each request with a fixed wait, while it is up.
    struct Limiter {
        retry_after: Duration,
        answers: AtomicBool,
        asked: AtomicU32,
    }

    impl Limiter {
        fn refusing(retry_after: Duration) -> Arc<Self> {
            Arc::new(Self { retry_after, answers: AtomicBool::new(true), asked: AtomicU32::new(0) })
        }
    }

    #[async_trait]
    impl RateLimiter for Limiter {
        async fn take(&self, _: &UserId, _: Option<&ApiKeyId>) -> Result<Option<Duration>, StoreError> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            if self.answers.load(Ordering::Relaxed) {
                Ok(Some(self.retry_after))
            } else {
                Err(StoreError::Unavailable("it is down".into()))
            }
        }
    }

    /// A clock at a number of milliseconds after an instant.
    struct Ahead(Instant, AtomicU64);

    impl Clock for Ahead {
        fn now(&self) -> DateTime<Utc> {
            Utc::now()
        }

        fn instant(&self) -> Instant {
            self.0 + Duration::from_millis(self.1.load(Ordering::Relaxed))
        }
    }

    const SHARED: Duration = Duration::from_millis(1);
    const LOCAL: Duration = Duration::from_millis(2);

    fn limits() -> RateLimits {
        let rates = Rates { second: 1.try_into().ok(), ..Rates::default() };
        RateLimits { user: rates, api_key: Rates::default() }
    }

    async fn answer(guard: &RateGuard) -> Duration {
        match guard.take(&UserId::from_stored("u"), None).await {
            Err(Error::InsufficientQuota(Limit::Rate { retry_after })) => retry_after,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn the_process_counts_while_the_shared_limiter_is_down() {
        let (local, shared) = (Limiter::refusing(LOCAL), Limiter::refusing(SHARED));
        let clock = Arc::new(Ahead(Instant::now(), AtomicU64::new(0)));
        let guard = RateGuard::new(limits(), local.clone(), Some(shared.clone()), clock.clone());
        assert_eq!((answer(&guard).await, guard.is_local()), (SHARED, false));
        shared.answers.store(false, Ordering::Relaxed);
        for _ in 0..5 {
            assert_eq!((answer(&guard).await, guard.is_local()), (LOCAL, true));
        }
        shared.answers.store(true, Ordering::Relaxed);
        assert_eq!((answer(&guard).await, guard.is_local()), (SHARED, true), "a moment ago it did not");
        clock.1.store(2_000, Ordering::Relaxed);
        assert!(!guard.is_local());
    }

    #[tokio::test]
    async fn a_request_without_limits_calls_no_limiter() {
        let local = Limiter::refusing(LOCAL);
        let guard =
            |limits| RateGuard::new(limits, local.clone(), None, Arc::new(crate::biz::values::calendar::SystemClock));
        let (user, key) = (UserId::from_stored("u"), ApiKeyId::from_stored("k"));
        guard(RateLimits::default()).take(&user, Some(&key)).await.unwrap();
        let of_keys = RateLimits { user: Rates::default(), api_key: limits().user };
        guard(of_keys).take(&user, None).await.unwrap();
        assert_eq!(local.asked.load(Ordering::Relaxed), 0);
        guard(of_keys).take(&user, Some(&key)).await.unwrap_err();
        assert!(!guard(limits()).is_local());
    }
}
