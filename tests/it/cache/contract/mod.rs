//! The contract of every cache: in memory, in a single Redis, in Redis Cluster and
//! behind sentinels.

pub mod backends;
mod histories;
mod races;
mod states;
mod stored;
