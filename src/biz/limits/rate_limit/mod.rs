//! Rate limits: how many requests a user and an API key may make in a second, a minute
//! and an hour. Requests are those that ask before a call, CheckQuota and ReserveQuota;
//! what was delivered is charged, however fast it came.
//!
//! The rule is GCRA (ITU-T I.371, as a leaky bucket): N requests at once, then one each
//! Nth of the period. It needs one number a window, whatever N is, and lets through no
//! double burst where two periods meet. It keeps whole numbers, so that it is exact: a
//! request fills the bucket of a window by its period in microseconds, N drain from it
//! each microsecond, and N times the period is what it holds.

mod guard;
#[cfg(test)]
mod tests;

use std::{num::NonZeroU32, time::Duration};

use async_trait::async_trait;

pub use self::guard::RateGuard;
use crate::biz::values::{
    cache_key::CacheKey,
    error::StoreError,
    ids::{ApiKeyId, UserId},
};

/// The largest limit. A bucket then holds 3.6e15, which is exact even in the doubles that
/// a script of a shared limiter counts with.
pub const MAX_LIMIT: u32 = 1_000_000;

/// Microseconds of a second, a minute and an hour, in the order of [`Rates::limits`].
pub const PERIODS: [u64; 3] = [1_000_000, 60_000_000, 3_600_000_000];

/// Requests of one cache key; `None` where they are not limited. At most [`MAX_LIMIT`] each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rates {
    pub second: Option<NonZeroU32>,
    pub minute: Option<NonZeroU32>,
    pub hour: Option<NonZeroU32>,
}

/// The limits of every user and of every API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RateLimits {
    pub user: Rates,
    pub api_key: Rates,
}

/// How full the buckets of a cache key are. Empty ones are those of a cache key that is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Level {
    /// When they were this full, in microseconds of the clock of whoever keeps it.
    at: u64,
    fill: [u64; 3],
}

impl Rates {
    /// Of a second, a minute and an hour.
    pub fn limits(&self) -> [Option<NonZeroU32>; 3] {
        [self.second, self.minute, self.hour]
    }

    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The buckets with one more request in them, if every window has room for it.
    /// Where the clock has gone back, no time has passed.
    ///
    /// # Errors
    /// How long until they would have, in whole microseconds and above zero. The level stays as it was.
    pub fn take(&self, level: Level, now: Duration) -> Result<Level, Duration> {
        let mut next = self.drained(level, now);
        let mut wait = 0;
        for ((fill, limit), period) in next.fill.iter_mut().zip(self.limits()).zip(PERIODS) {
            if let Some(limit) = limit {
                let limit = u64::from(limit.get());
                *fill += period;
                wait = fill.saturating_sub(limit * period).div_ceil(limit).max(wait);
            }
        }
        if wait == 0 { Ok(next) } else { Err(Duration::from_micros(wait)) }
    }

    /// Whether nothing is left of a level, so that it can be forgotten.
    pub fn has_run_out(&self, level: Level, now: Duration) -> bool {
        self.drained(level, now).fill == [0; 3]
    }

    fn drained(&self, level: Level, now: Duration) -> Level {
        let now = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        let elapsed = now.saturating_sub(level.at);
        let mut fill = level.fill;
        for (fill, limit) in fill.iter_mut().zip(self.limits()) {
            let drained = limit.map_or(u64::MAX, |limit| elapsed.saturating_mul(limit.get().into()));
            *fill = fill.saturating_sub(drained);
        }
        Level { at: level.at.max(now), fill }
    }
}

impl RateLimits {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What a cache key may make.
    pub fn of(&self, cache_key: &CacheKey) -> &Rates {
        match cache_key {
            CacheKey::User(_) => &self.user,
            CacheKey::ApiKey(_) => &self.api_key,
        }
    }

    /// The cache keys that a request counts to, those without limits left out.
    pub fn cache_keys(&self, user: &UserId, key: Option<&ApiKeyId>) -> Vec<CacheKey> {
        let user = Some(CacheKey::User(user.clone()));
        let key = key.map(|key| CacheKey::ApiKey(key.clone()));
        user.into_iter().chain(key).filter(|cache_key| !self.of(cache_key).is_empty()).collect()
    }
}

/// Counts requests, of one process or of all.
#[async_trait]
pub trait RateLimiter: Send + Sync + 'static {
    /// Counts a request of a user, and of an API key if it was made with one. Every window
    /// of both must have room; otherwise it counts to none, and the time is returned until
    /// it would be admitted if nobody else made any.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: it may be counted or not; at once while it is known not
    /// to answer. [`StoreError::Failed`]: it was not counted.
    async fn take(&self, user: &UserId, key: Option<&ApiKeyId>) -> Result<Option<Duration>, StoreError>;
}
