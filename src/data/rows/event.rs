//! Events: `event`.

use crate::{
    biz::{
        events::Event,
        jobs::ops_stats::FeedSize,
        values::{error::StoreError, ids::UserId},
    },
    data::{error::corrupt, row::Columns},
};

/// Positions are given without gaps, and the oldest events are deleted first.
pub const FEED_SIZE: &str = "\
    SELECT position, position + 1 - COALESCE((SELECT MIN(position) FROM event), position + 1), \
    (SELECT COUNT(*) FROM (SELECT 1 FROM event WHERE position IS NULL LIMIT ?) unplaced), \
    (SELECT created_at FROM event ORDER BY seq LIMIT 1) FROM event_feed WHERE id = 1";

/// The row of [`FEED_SIZE`].
pub fn feed_size_of(row: &impl Columns) -> Result<FeedSize, StoreError> {
    let oldest = row.optional_time(3)?;
    Ok(FeedSize { head: row.number(0)?, placed: row.number(1)?, unplaced: row.number(2)?, oldest })
}

/// An event: position, id, type, user, data, time.
pub fn event_of(row: &impl Columns) -> Result<Event, StoreError> {
    Ok(Event {
        position: row.number(0)?,
        id: row.uuid(1)?,
        kind: row.text(2)?.parse().map_err(|_| corrupt("type"))?,
        user: row.optional_text(3)?.map(UserId::from_stored),
        data: row.text(4)?,
        at: row.time(5)?,
    })
}
