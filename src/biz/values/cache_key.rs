//! The key of cached state and of rate limits.

use super::ids::{ApiKeyId, UserId};

/// A user, whose account is cached, or an API key, whose quotas are. Rate limits are kept for the
/// same two.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CacheKey {
    User(UserId),
    ApiKey(ApiKeyId),
}
