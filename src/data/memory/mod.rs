//! Traits of `crate::biz` implemented in the memory of this process: bounded, and lost with it.

mod cache;
mod rate_limit;

pub use self::{cache::MemoryCache, rate_limit::MemoryRateLimiter};
