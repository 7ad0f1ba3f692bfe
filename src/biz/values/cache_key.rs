//! The key of cached state and of rate limits.

use super::ids::{ApiKeyId, UserId};

/// A user, for the cached account, or an API key, for its cached quotas. Rate limits use the same
/// keys.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CacheKey {
    User(UserId),
    ApiKey(ApiKeyId),
}
