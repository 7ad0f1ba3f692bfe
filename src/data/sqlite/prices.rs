//! Token prices, in the table `price_version`.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::sqlite::SqliteRow;

use super::SqliteStore;
use crate::{
    biz::{
        charge::prices::{PAGE, PriceStore, StoredVersion},
        values::{error::StoreError, invalid::Invalid},
    },
    data::{error::store_error, row::Columns, rows::price::stored_version_of},
};

/// A page of the versions in force, after a model.
const IN_FORCE: &str = "\
    SELECT p.model, p.effective_from, p.version_id, p.input_price, p.cached_input_price, p.output_price \
    FROM (SELECT model, MAX(effective_from) AS since FROM price_version WHERE model > ? AND effective_from <= ? \
    GROUP BY model ORDER BY model LIMIT ?) f \
    CROSS JOIN price_version p ON p.model = f.model AND p.effective_from = f.since ORDER BY p.model";

/// A page of the future versions, after a model and an instant.
const FUTURE: &str = "\
    SELECT model, effective_from, version_id, input_price, cached_input_price, output_price FROM price_version \
    WHERE (model, effective_from) > (?, ?) AND effective_from > ? ORDER BY model, effective_from LIMIT ?";

#[async_trait]
impl PriceStore for SqliteStore {
    async fn price_versions(&self, from: DateTime<Utc>) -> Result<Vec<Result<StoredVersion, Invalid>>, StoreError> {
        let from = from.timestamp_micros();
        let mut versions = Vec::new();
        // Each page begins after the previous one, so both loops end with the table.
        let mut after = Some((String::new(), from));
        while let Some((model, _)) = after {
            let page = sqlx::query(IN_FORCE).bind(model).bind(from).bind(PAGE).fetch_all(&self.reader);
            after = add_page(&mut versions, &page.await.map_err(store_error)?)?;
        }
        after = Some((String::new(), from));
        while let Some((model, instant)) = after {
            let page = sqlx::query(FUTURE).bind(model).bind(instant).bind(from).bind(PAGE).fetch_all(&self.reader);
            after = add_page(&mut versions, &page.await.map_err(store_error)?)?;
        }
        Ok(versions)
    }
}

/// Adds a page of versions. Returns the row after which the next page begins, if there may be one.
fn add_page(
    versions: &mut Vec<Result<StoredVersion, Invalid>>,
    rows: &[SqliteRow],
) -> Result<Option<(String, i64)>, StoreError> {
    versions.extend(rows.iter().map(stored_version_of));
    rows.last().filter(|_| rows.len() == PAGE as usize).map(key_of).transpose()
}

/// The stored key of a row. The instant of an unusable row may not be valid.
fn key_of(row: &SqliteRow) -> Result<(String, i64), StoreError> {
    Ok((row.text(0)?, row.number(1)?))
}
