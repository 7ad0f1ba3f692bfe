//! The cache that all processes share: entries in Redis, read and changed by scripts that
//! touch one slot each. Redis may be slow, down, emptied or older than it was: then these
//! fail at once, and who called asks the database.

mod batch;
mod cache;
mod hash;
mod keys;
mod link;
mod node;
mod rate_limit;
mod scripts;
mod settings;
mod topology;

pub use self::{
    cache::RedisCache,
    rate_limit::RedisRateLimiter,
    settings::{RedisLayout, RedisSettings, ScriptTimes},
};
