//! Retention: events older than `billing.events.keep` are deleted.

use chrono::{DateTime, Utc};

use super::{progress::Progress, retry::repeat};
use crate::biz::{events::EventFeed, values::error::StoreError};

/// Deletes the events older than `before`. Returns their number.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Failed`]; deleted events stay deleted.
pub async fn delete_old_events(
    feed: &(impl EventFeed + ?Sized),
    before: DateTime<Utc>,
    progress: &dyn Progress,
) -> Result<u64, StoreError> {
    let (mut all, mut after) = (0, Some(0));
    // Ends, because each page begins behind the last one and new events are not old.
    while let Some(from) = after {
        let page = repeat(|| feed.old_events(before, from)).await?;
        if !page.seqs.is_empty() {
            repeat(|| feed.delete_events(&page.seqs)).await?;
        }
        let deleted = page.seqs.len() as u64;
        all += deleted;
        progress.reached(&all.to_string(), deleted).await?;
        after = page.next;
    }
    Ok(all)
}

/// The number of events that [`delete_old_events`] would delete.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Failed`].
pub async fn count_old_events(
    feed: &(impl EventFeed + ?Sized),
    before: DateTime<Utc>,
    progress: &dyn Progress,
) -> Result<u64, StoreError> {
    let (mut all, mut after) = (0, Some(0));
    while let Some(from) = after {
        let page = repeat(|| feed.old_events(before, from)).await?;
        let counted = page.seqs.len() as u64;
        all += counted;
        progress.reached(&all.to_string(), counted).await?;
        after = page.next;
    }
    Ok(all)
}
