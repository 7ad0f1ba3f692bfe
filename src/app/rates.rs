//! Rate limits as configured.

use std::sync::Arc;

use crate::{
    biz::{calendar::Clock, rate_limit::RateGuard},
    config::Config,
    data::memory::MemoryRateLimiter,
};

pub(super) fn guard(config: &Config, clock: Arc<dyn Clock>) -> Arc<RateGuard> {
    let limits = config.billing.rate_limits.into();
    let local = Arc::new(MemoryRateLimiter::new(limits, clock.clone()));
    Arc::new(RateGuard::new(limits, local, None, clock))
}
