//! Implements traits of `crate::biz` in the memory of this process. The memory is bounded, and its
//! content is lost with the process.

mod cache;
mod rate_limit;

pub use self::{cache::MemoryCache, rate_limit::MemoryRateLimiter};
