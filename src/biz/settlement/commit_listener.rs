//! The interface through which settlement notifies the caches of its commits.

use async_trait::async_trait;

use crate::biz::{events::EventType, settlement::change::Change, values::cache_key::CacheKey};

/// Notified after a commit and before the callers get their answers, so that a caller reads its own
/// writes. The methods must return at once, because the answers wait for them.
#[async_trait]
pub trait CommitListener: Send + Sync + 'static {
    /// A batch committed these changes.
    async fn committed(&self, changes: Vec<Change>);

    /// A batch committed these events.
    fn told(&self, _: &[EventType]) {}

    /// The entries of these keys changed, and the changes are not known.
    async fn invalidate(&self, cache_keys: Vec<CacheKey>);

    /// A batch with these keys has an unknown outcome: they may have changed, or may still change.
    async fn outcome_unknown(&self, cache_keys: Vec<CacheKey>);
}
