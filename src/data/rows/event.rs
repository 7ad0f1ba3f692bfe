//! Events: `event`.

use crate::{
    biz::{
        events::Event,
        values::{error::StoreError, ids::UserId},
    },
    data::{error::corrupt, row::Columns},
};

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
