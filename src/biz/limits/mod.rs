//! Limits on requests: caps of users, quotas of API keys, and rate limits.

pub mod caps;
pub mod key_quota;
pub mod rate_limit;
