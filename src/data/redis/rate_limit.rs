//! Rate limits that all processes share, by the clock of Redis.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::future::join;
use redis::Value;

use super::{RedisCache, keys, node::unavailable, scripts};
use crate::biz::{
    check::cache::entry::Subject,
    limits::rate_limit::{PERIODS, RateLimiter, RateLimits, Rates},
    values::{
        error::StoreError,
        ids::{ApiKeyId, UserId},
    },
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
        match subject {
            Some(subject) => self.run("take", subject).await,
            None => Ok(None),
        }
    }

    async fn run(&self, what: &str, subject: &Subject) -> Result<Option<Duration>, StoreError> {
        let arguments: Vec<String> = [what.to_owned()].into_iter().chain(windows(self.limits.of(subject))).collect();
        let answer = self.redis.run(&scripts::RATE, &[&keys::rate(subject)], &arguments).await?;
        let Value::Int(wait) = answer else { return Err(unavailable("a time was expected")) };
        Ok(u64::try_from(wait).ok().filter(|wait| *wait > 0).map(Duration::from_micros))
    }
}

#[async_trait]
impl RateLimiter for RedisRateLimiter {
    /// Users and keys are in different slots, and are asked at once. What only one of them
    /// has room for is returned to it; until then, some other request may miss its place.
    async fn take(&self, user: &UserId, key: Option<&ApiKeyId>) -> Result<Option<Duration>, StoreError> {
        let subjects = self.limits.subjects(user, key);
        let (one, other) = join(self.take_of(subjects.first()), self.take_of(subjects.get(1))).await;
        let (one, other) = (one?, other?);
        let counted = match (&subjects[..], one, other) {
            ([user, _], None, Some(_)) => Some(user),
            ([_, key], Some(_), None) => Some(key),
            _ => None,
        };
        if let Some(subject) = counted {
            self.run("return", subject).await?;
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
