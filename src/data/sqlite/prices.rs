//! Token prices: rows of `price_version`.

use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;

use super::{
    SqliteStore,
    row::{instant, money, optional_money, text},
};
use crate::{
    biz::{
        charge::prices::{MAX_STORED, PriceStore, StoredVersion, TokenPrices},
        values::{error::StoreError, invalid::Invalid},
    },
    data::error::store_error,
};

#[async_trait]
impl PriceStore for SqliteStore {
    async fn price_versions(&self) -> Result<Vec<Result<StoredVersion, Invalid>>, StoreError> {
        let rows = sqlx::query(
            "SELECT model, effective_from, version_id, input_price, cached_input_price, output_price \
             FROM price_version LIMIT ?",
        )
        .bind(MAX_STORED as u32 + 1)
        .fetch_all(&self.reader)
        .await
        .map_err(store_error)?;
        rows.iter()
            .map(|row| {
                let key = text(row, 0).and_then(|model| Ok((model, instant(row, 1)?)));
                let (model, effective_from) = key.map_err(unread)?;
                StoredVersion::parse(&model, effective_from, version_of(row))
            })
            .map(Ok)
            .collect()
    }
}

fn unread(error: StoreError) -> Invalid {
    Invalid::new("price_version", error.to_string())
}

fn version_of(row: &SqliteRow) -> Result<(String, TokenPrices), StoreError> {
    let input = money(row, 3)?;
    let cached_input = optional_money(row, 4)?.unwrap_or(input);
    Ok((text(row, 2)?, TokenPrices { input, cached_input, output: money(row, 5)? }))
}
