//! Rate limits that all processes share. The clock of Redis counts.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::future::join;
use redis::Value;

use super::{RedisCache, node::unavailable, scripts};
use crate::biz::{
    limits::rate_limit::{PERIODS, RateLimiter, RateLimits, Rates},
    values::{
        cache_key::CacheKey,
        error::StoreError,
        ids::{ApiKeyId, UserId},
    },
};

/// The rate limiter in the Redis of the shared cache.
pub struct RedisRateLimiter {
    redis: Arc<RedisCache>,
    limits: RateLimits,
}

impl RedisRateLimiter {
    pub fn new(redis: Arc<RedisCache>, limits: RateLimits) -> Self {
        Self { redis, limits }
    }

    async fn take_of(&self, cache_key: Option<&CacheKey>) -> Result<Option<Duration>, StoreError> {
        match cache_key {
            Some(cache_key) => self.run("take", cache_key).await,
            None => Ok(None),
        }
    }

    async fn run(&self, action: &str, cache_key: &CacheKey) -> Result<Option<Duration>, StoreError> {
        let arguments: Vec<String> =
            [action.to_owned()].into_iter().chain(windows(self.limits.of(cache_key))).collect();
        let answer = self.redis.run(&scripts::RATE, &[&self.redis.keys.rate(cache_key)], &arguments).await?;
        let Value::Int(wait) = answer else { return Err(unavailable("malformed reply of rate_limit.lua")) };
        Ok(u64::try_from(wait).ok().filter(|wait| *wait > 0).map(Duration::from_micros))
    }
}

#[async_trait]
impl RateLimiter for RedisRateLimiter {
    /// User and API key are in different slots, so two scripts run concurrently. If only one of
    /// them counts the request, that count is returned. Until then, another request may be refused
    /// for it.
    async fn take(&self, user: &UserId, key: Option<&ApiKeyId>) -> Result<Option<Duration>, StoreError> {
        let cache_keys = self.limits.cache_keys(user, key);
        let (one, other) = join(self.take_of(cache_keys.first()), self.take_of(cache_keys.get(1))).await;
        let (one, other) = (one?, other?);
        let counted = match (&cache_keys[..], one, other) {
            ([user, _], None, Some(_)) => Some(user),
            ([_, key], Some(_), None) => Some(key),
            _ => None,
        };
        if let Some(cache_key) = counted {
            self.run("return", cache_key).await?;
        }
        Ok(one.max(other))
    }
}

/// Name, limit and period of each window.
fn windows(rates: &Rates) -> impl Iterator<Item = String> {
    let windows = ["s", "m", "h"].into_iter().zip(rates.limits()).zip(PERIODS);
    let limited = windows.filter_map(|((name, limit), period)| Some((name, limit?, period)));
    limited.flat_map(|(name, limit, period)| [name.to_owned(), limit.to_string(), period.to_string()])
}
