//! Rate limits that all processes share, by the clock of Redis.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::future::join;
use redis::Value;

use super::{RedisCache, keys, node::unavailable, scripts};
use crate::biz::{
    error::StoreError,
    ids::{ApiKeyId, UserId},
    rate_limit::{PERIODS, RateLimiter, RateLimits, Rates, Subject},
};

/// The limiter in the Redis of a cache.
pub struct RedisRateLimiter {
    redis: Arc<RedisCache>,
    limits: RateLimits,
}

impl RedisRateLimiter {
    pub fn new(redis: Arc<RedisCache>, limits: RateLimits) -> Self {
        Self { redis, limits }
    }

    async fn take_of(&self, subject: Option<&Subject>) -> Result<Option<Duration>, StoreError> {
        let Some(subject) = subject else { return Ok(None) };
        let answer = self.redis.run(&scripts::RATE, &[&keys::rate(subject)], &windows(self.limits.of(subject))).await?;
        let Value::Int(wait) = answer else { return Err(unavailable("a time was expected")) };
        Ok(u64::try_from(wait).ok().filter(|wait| *wait > 0).map(Duration::from_micros))
    }
}

#[async_trait]
impl RateLimiter for RedisRateLimiter {
    /// Users and keys are in different slots: a request that only its key has no room for
    /// counts to its user all the same.
    async fn take(&self, user: &UserId, key: Option<&ApiKeyId>) -> Result<Option<Duration>, StoreError> {
        let subjects = self.limits.subjects(user, key);
        let (one, other) = join(self.take_of(subjects.first()), self.take_of(subjects.get(1))).await;
        Ok(one?.max(other?))
    }
}

/// Name, limit and period of each window.
fn windows(rates: &Rates) -> Vec<String> {
    let windows = ["s", "m", "h"].into_iter().zip(rates.limits()).zip(PERIODS);
    let limited = windows.filter_map(|((name, limit), period)| Some((name, limit?, period)));
    limited.flat_map(|(name, limit, period)| [name.to_owned(), limit.to_string(), period.to_string()]).collect()
}
