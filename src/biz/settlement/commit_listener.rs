//! Who reads what settlement writes, and has to hear of it.

use async_trait::async_trait;

use crate::biz::{settlement::change::Change, values::cache_key::CacheKey};

/// Told after a commit and before its callers are answered, so that who was answered reads
/// what it wrote. Answers are waiting: these return at once.
#[async_trait]
pub trait CommitListener: Send + Sync + 'static {
    /// This changed.
    async fn committed(&self, changes: Vec<Change>);

    /// These changed, and nobody knows any more how.
    async fn invalidate(&self, cache_keys: Vec<CacheKey>);

    /// These may have changed, or may change yet.
    async fn outcome_unknown(&self, cache_keys: Vec<CacheKey>);
}
