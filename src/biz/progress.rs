//! How far a long job has got: shown to people, and kept for the run that goes on after
//! this one was cut short.

use async_trait::async_trait;

use super::error::StoreError;

/// The progress of one run.
#[async_trait]
pub trait Progress: Send + Sync {
    /// Where to go on; `None` at the beginning.
    fn position(&self) -> Option<String>;

    /// Everything up to `position` is done, so many items more.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: the position can't be kept, or the run is no longer
    /// this process's: it must end.
    async fn reached(&self, position: &str, items: u64) -> Result<(), StoreError>;
}
