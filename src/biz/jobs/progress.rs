//! The progress of a long job: displayed to people, and stored as a checkpoint from which the next
//! run resumes if this one is interrupted.

use std::fmt;

use async_trait::async_trait;

use crate::biz::values::{error::StoreError, ids::UserId};

/// The progress of one run.
#[async_trait]
pub trait Progress: Send + Sync {
    /// The checkpoint to resume from; `None` begins at the first item.
    fn position(&self) -> Option<String>;

    /// `items` items remain after the checkpoint. The number is only displayed: users may be added
    /// during the run.
    fn expect(&self, items: u64);

    /// Stores the checkpoint `position`, of at most 255 characters: all items up to it are done,
    /// `items` of them since the last checkpoint. `position` includes the counts of the run so far,
    /// because a run that resumes has no other state.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: the checkpoint can't be stored, or another process has the
    /// lease. The run must end.
    async fn reached(&self, position: &str, items: u64) -> Result<(), StoreError>;

    /// Reports a finding at once, so that it is not lost if the process is killed. A run that
    /// resumes may report the same finding again.
    fn report(&self, line: &str);
}

/// The checkpoint of a scan of all users: its counts and the last user, written `1000 0 user`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanPosition<const N: usize> {
    pub counts: [u64; N],
    pub last: Option<UserId>,
}

impl<const N: usize> ScanPosition<N> {
    /// The checkpoint of `progress`; the beginning if it is absent or malformed.
    pub fn of(progress: &dyn Progress) -> Self {
        let read = progress.position().and_then(|position| Self::read(&position));
        read.unwrap_or_else(Self::begin)
    }

    /// The position before the first user, with counts of zero.
    pub fn begin() -> Self {
        Self { counts: [0; N], last: None }
    }

    /// Parses a written position; `None` if `text` is not a position with `N` counts.
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
    fn a_scan_resumes_from_its_written_position() {
        let scan = ScanPosition { counts: [1_000, 3], last: Some(UserId::from_stored("with space".to_owned())) };
        assert_eq!(ScanPosition::read(&scan.to_string()), Some(scan));
        for bad in ["", "user", "1 user", "1 -1 user", "1 2"] {
            assert_eq!(ScanPosition::<2>::read(bad), None, "{bad}");
        }
    }
}
