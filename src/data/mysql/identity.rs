//! The identity of the database: the row of `database_identity`; and its clock.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::MySqlStore;
use crate::{
    biz::{
        database::clock_skew::DatabaseClock,
        database::identity::{Identity, IdentityStore},
        values::error::StoreError,
    },
    data::{error::corrupt, row::Columns},
};

#[async_trait]
impl IdentityStore for MySqlStore {
    async fn identity(&self, first: &Identity) -> Result<Identity, StoreError> {
        if let Some(known) = self.known_identity().await? {
            return Ok(known);
        }
        let insert = sqlx::query("INSERT IGNORE INTO database_identity (id, currency, time_zone) VALUES (?, ?, ?)")
            .bind(first.id.to_string())
            .bind(&first.currency)
            .bind(&first.time_zone);
        self.reader.execute(insert).await?;
        self.known_identity().await?.ok_or_else(|| corrupt("identity of the database"))
    }
}

impl MySqlStore {
    async fn known_identity(&self) -> Result<Option<Identity>, StoreError> {
        let rows = self.reader.fetch_all(sqlx::query("SELECT id, currency, time_zone FROM database_identity")).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let id = row.text(0)?.parse().map_err(|_| corrupt("id of the database, which must be a UUID,"))?;
        Ok(Some(Identity { id, currency: row.text(1)?, time_zone: row.text(2)? }))
    }
}

#[async_trait]
impl DatabaseClock for MySqlStore {
    async fn database_time(&self) -> Result<Option<DateTime<Utc>>, StoreError> {
        let rows = self.reader.fetch_all(sqlx::query("SELECT UTC_TIMESTAMP(6)")).await?;
        let time = rows.first().map(|row| row.time(0)).transpose()?;
        time.map(Some).ok_or_else(|| corrupt("time of the database"))
    }
}
