//! How far a long job has got: shown to people, and kept for the run that goes on after
//! this one was cut short.

use std::fmt;

use async_trait::async_trait;

use crate::biz::values::{error::StoreError, ids::UserId};

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

/// Where a walk through all users got to: what it counted, and the last user. Written
/// `1000 0 user`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanPosition<const N: usize> {
    pub counts: [u64; N],
    pub last: Option<UserId>,
}

impl<const N: usize> ScanPosition<N> {
    /// The beginning where `progress` has no position, or one that is none of such a walk.
    pub fn of(progress: &dyn Progress) -> Self {
        let read = progress.position().and_then(|position| Self::read(&position));
        read.unwrap_or_else(Self::begin)
    }

    /// Nobody is counted yet.
    pub fn begin() -> Self {
        Self { counts: [0; N], last: None }
    }

    /// What was written; `None` for what is no position of such a walk.
    pub fn read(text: &str) -> Option<Self> {
        let mut parts = text.splitn(N + 1, ' ');
        let mut counts = [0; N];
        for count in &mut counts {
            *count = parts.next()?.parse().ok()?;
        }
        Some(Self { counts, last: Some(UserId::from_stored(parts.next()?)) })
    }
}

impl<const N: usize> fmt::Display for ScanPosition<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counts.iter().try_for_each(|count| write!(f, "{count} "))?;
        f.write_str(self.last.as_ref().map_or("", UserId::as_str))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_goes_on_where_it_was() {
        let scan = ScanPosition { counts: [1_000, 3], last: Some(UserId::from_stored("with space".to_owned())) };
        assert_eq!(ScanPosition::read(&scan.to_string()), Some(scan));
        for bad in ["", "user", "1 user", "1 -1 user", "1 2"] {
            assert_eq!(ScanPosition::<2>::read(bad), None, "{bad}");
        }
    }
}
