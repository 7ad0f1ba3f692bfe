//! How far a long job has got: shown to people, and kept for the run that goes on after
//! this one was cut short.

use async_trait::async_trait;

use super::error::StoreError;

/// The progress of one run.
#[async_trait]
pub trait Progress: Send + Sync {
    /// Where to go on; `None` at the beginning.
    fn position(&self) -> Option<String>;

    /// So many items are to be done, from the position on. Only shown: others may come and
    /// go meanwhile.
    fn expect(&self, items: u64);

    /// Everything up to `position`, which has at most 255 characters, is done, so many items
    /// more. What the run has found so far is part of the position: the run that goes on
    /// knows nothing else.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: the position can't be kept, or the run is no longer
    /// this process's: it must end.
    async fn reached(&self, position: &str, items: u64) -> Result<(), StoreError>;

    /// Says what was found, at once: a run that is killed has said it. The run that goes on
    /// may say it again.
    fn tell(&self, line: &str);
}
