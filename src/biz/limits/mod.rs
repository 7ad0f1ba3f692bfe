//! Limits on requests: caps of users, quotas of API keys, rate limits, shares of resources, turns at
//! them, and rates of events that peers cause.

pub mod bursts;
pub mod caps;
pub mod key_quota;
pub mod lines;
pub mod rate_limit;
pub mod shares;
pub mod turns;
