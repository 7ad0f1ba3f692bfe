//! Rate limits: the most requests of a user and of an API key per second, minute and hour. CheckQuota
//! and ReserveQuota count, because they come before a call. Charges of delivered work do not count.
//!
//! The rule is GCRA (ITU-T I.371), in its form as a leaky bucket: N requests at once, then one per
//! Nth of the period. GCRA stores one number per window for any N, and admits no double burst at the
//! border of two periods. All numbers are whole, so the rule is exact: a request adds the period
//! in microseconds to the bucket, each microsecond drains N, and the bucket holds N times the
//! period.

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

/// The largest limit. The largest bucket then holds 3.6e15, which is exact in the doubles of a Lua
/// script too.
pub const MAX_LIMIT: u32 = 1_000_000;

/// Microseconds of a second, a minute and an hour, in the order of [`Rates::limits`].
pub const PERIODS: [u64; 3] = [1_000_000, 60_000_000, 3_600_000_000];

/// Limits of one cache key, in requests, at most [`MAX_LIMIT`] each; `None` means no limit.
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

/// The fill of the buckets of a cache key. An unknown cache key has empty buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Level {
    /// Time of this fill, in microseconds by the clock of the limiter.
    at: u64,
    fill: [u64; 3],
}

impl Rates {
    /// The limits of a second, a minute and an hour.
    pub fn limits(&self) -> [Option<NonZeroU32>; 3] {
        [self.second, self.minute, self.hour]
    }

    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The level with one more request, if every window has room for it. If the clock has gone
    /// back, no time has passed.
    ///
    /// # Errors
    /// The time until every window has room, in whole microseconds, above zero.
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

    /// Whether all buckets are empty, so that the level can be dropped.
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

    /// The limits of a cache key.
    pub fn of(&self, cache_key: &CacheKey) -> &Rates {
        match cache_key {
            CacheKey::User(_) => &self.user,
            CacheKey::ApiKey(_) => &self.api_key,
        }
    }

    /// The cache keys with limits to which a request counts.
    pub fn cache_keys(&self, user: &UserId, key: Option<&ApiKeyId>) -> Vec<CacheKey> {
        let user = Some(CacheKey::User(user.clone()));
        let key = key.map(|key| CacheKey::ApiKey(key.clone()));
        user.into_iter().chain(key).filter(|cache_key| !self.of(cache_key).is_empty()).collect()
    }
}

/// Counts requests: locally in one process, or shared by all.
#[async_trait]
pub trait RateLimiter: Send + Sync + 'static {
    /// Counts a request of a user, and of the API key if the request has one. Every window of both
    /// must have room. Otherwise the request counts to no window, and the result is the time until
    /// it would be admitted if no other request comes.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: the request may be counted or not. A limiter that is known to be
    /// down fails at once. [`StoreError::Failed`]: the request is not counted.
    async fn take(&self, user: &UserId, key: Option<&ApiKeyId>) -> Result<Option<Duration>, StoreError>;
}
