//! The identity of the database: the row of `database_identity`. Its clock is the machine's.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use rusqlite::{OptionalExtension, params};

use super::{SqliteStore, writer::writer_error};
use crate::{
    biz::{
        database::clock_skew::DatabaseClock,
        database::identity::{Identity, IdentityStore},
        values::error::StoreError,
    },
    data::error::corrupt,
};

#[async_trait]
impl IdentityStore for SqliteStore {
    async fn identity(&self, first: &Identity) -> Result<Identity, StoreError> {
        let first = first.clone();
        let known = self.writer.run(move |connection| {
            let read = "SELECT id, currency, time_zone FROM database_identity";
            let known = || {
                let row = connection.query_row(read, (), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
                row.optional().map_err(writer_error)
            };
            if let Some(known) = known()? {
                return Ok(known);
            }
            let insert = "INSERT INTO database_identity (only_row, id, currency, time_zone, created_at) \
                VALUES (1, ?, ?, ?, ?) ON CONFLICT DO NOTHING";
            let row = params![first.id.to_string(), first.currency, first.time_zone, Utc::now().timestamp_micros()];
            connection.execute(insert, row).map_err(writer_error)?;
            known()?.ok_or_else(|| corrupt("identity of the database"))
        });
        let (id, currency, time_zone): (String, String, String) = known.await?;
        let id = id.parse().map_err(|_| corrupt("id of the database, which must be a UUID,"))?;
        Ok(Identity { id, currency, time_zone })
    }
}

#[async_trait]
impl DatabaseClock for SqliteStore {
    async fn database_time(&self) -> Result<Option<DateTime<Utc>>, StoreError> {
        Ok(None)
    }
}
