//! What is kept in the memory of the process: lost with it, and known to it alone.

mod rate_limit;

pub use self::rate_limit::MemoryRateLimiter;
