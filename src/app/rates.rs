//! Builds the rate guard from the configured limits: a limiter in memory, and a shared one where
//! Redis is configured.

use std::sync::Arc;

use crate::{
    biz::{
        limits::rate_limit::{RateGuard, RateLimiter},
        values::calendar::Clock,
    },
    config::Config,
    data::{
        memory::MemoryRateLimiter,
        redis::{RedisCache, RedisRateLimiter},
    },
};

pub(super) fn guard(config: &Config, redis: Option<Arc<RedisCache>>, clock: Arc<dyn Clock>) -> Arc<RateGuard> {
    let limits = config.billing.rate_limits.into();
    let local = Arc::new(MemoryRateLimiter::new(limits, clock.clone()));
    let shared = redis.map(|redis| Arc::new(RedisRateLimiter::new(redis, limits)) as Arc<dyn RateLimiter>);
    Arc::new(RateGuard::new(limits, local, shared, clock))
}
