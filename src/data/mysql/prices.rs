//! Token prices, in the table `price_version`.

use async_trait::async_trait;
use chrono::{DateTime, NaiveDateTime, Utc};
use sqlx::{Row, mysql::MySqlRow};

use super::MySqlStore;
use crate::{
    biz::{
        charge::prices::{PAGE, PriceStore, StoredVersion},
        values::{error::StoreError, invalid::Invalid},
    },
    data::{error::store_error, rows::price::stored_version_of},
};

/// A page of the versions in force, after a model.
const IN_FORCE: &str = "\
    SELECT p.model, p.effective_from, p.version_id, p.input_price, p.cached_input_price, p.output_price \
    FROM (SELECT model, MAX(effective_from) AS since FROM price_version WHERE model > ? AND effective_from <= ? \
    GROUP BY model ORDER BY model LIMIT ?) f \
    STRAIGHT_JOIN price_version p ON p.model = f.model AND p.effective_from = f.since ORDER BY p.model";

/// A page of the future versions, after a model and an instant.
const FUTURE: &str = "\
    SELECT model, effective_from, version_id, input_price, cached_input_price, output_price FROM price_version \
    WHERE (model > ? OR model = ? AND effective_from > ?) AND effective_from > ? \
    ORDER BY model, effective_from LIMIT ?";

#[async_trait]
impl PriceStore for MySqlStore {
    async fn price_versions(&self, from: DateTime<Utc>) -> Result<Vec<Result<StoredVersion, Invalid>>, StoreError> {
        let from = from.naive_utc();
        let mut versions = Vec::new();
        // Each page begins after the previous one, so both loops end with the table.
        let mut after = Some((Vec::new(), from));
        while let Some((model, _)) = after {
            let query = sqlx::query(IN_FORCE).bind(model).bind(from).bind(PAGE);
            after = add_page(&mut versions, &self.reader.fetch_all(query).await?)?;
        }
        after = Some((Vec::new(), from));
        while let Some((model, instant)) = after {
            let query = sqlx::query(FUTURE).bind(model.clone()).bind(model).bind(instant).bind(from).bind(PAGE);
            after = add_page(&mut versions, &self.reader.fetch_all(query).await?)?;
        }
        Ok(versions)
    }
}

/// Adds a page of versions. Returns the row after which the next page begins, if there may be one.
fn add_page(
    versions: &mut Vec<Result<StoredVersion, Invalid>>,
    rows: &[MySqlRow],
) -> Result<Option<(Vec<u8>, NaiveDateTime)>, StoreError> {
    versions.extend(rows.iter().map(stored_version_of));
    rows.last().filter(|_| rows.len() == PAGE as usize).map(key_of).transpose()
}

/// The stored key of a row. The model of an unusable row may not be text.
fn key_of(row: &MySqlRow) -> Result<(Vec<u8>, NaiveDateTime), StoreError> {
    Ok((row.try_get(0).map_err(store_error)?, row.try_get(1).map_err(store_error)?))
}
