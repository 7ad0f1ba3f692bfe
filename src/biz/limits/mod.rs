//! Limits on requests: caps of users, quotas of API keys, rate limits, and shares of resources.

pub mod caps;
pub mod key_quota;
pub mod rate_limit;
pub mod shares;
