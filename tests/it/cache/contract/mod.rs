//! What every cache keeps to, wherever it is: in memory, in one Redis, in a cluster and
//! behind sentinels.

pub mod backends;
mod histories;
mod races;
mod states;
mod stored;
