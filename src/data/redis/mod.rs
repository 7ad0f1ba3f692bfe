//! The shared cache and the shared rate limits: entries in Redis, which scripts read and change.
//! Each script touches one slot. If Redis is slow, down, emptied or restored from an old
//! snapshot, calls fail at once, and the caller reads the database. Several databases may share
//! one Redis.

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
