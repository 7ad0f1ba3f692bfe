//! Retention: events older than `billing.events.keep` are deleted.

use chrono::{DateTime, Utc};

use super::{progress::Progress, retry::repeat};
use crate::biz::{
    events::{DELETED_AT_ONCE, EventFeed},
    values::error::StoreError,
};

/// Deletes the events older than `before`. Returns their number.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Failed`]; deleted events stay deleted.
pub async fn delete_old_events(
    feed: &(impl EventFeed + ?Sized),
    before: DateTime<Utc>,
    progress: &dyn Progress,
) -> Result<u64, StoreError> {
    let mut all = 0;
    // Ends: each step deletes the oldest events, and no event becomes old meanwhile.
    loop {
        let deleted = repeat(|| feed.delete_events(before)).await?;
        all += u64::from(deleted);
        progress.reached(&all.to_string(), deleted.into()).await?;
        if deleted < DELETED_AT_ONCE {
            return Ok(all);
        }
    }
}
